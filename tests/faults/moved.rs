//! Names that others give to another image between the look at them and what is done about them.

use crate::{
    common::{Stack, linkspan},
    engine::{ENGINES, Engine, assert_stderr_has},
    fault_injection::Application,
    proxied::Proxied,
    proxy::{Direction, Proxy, Verdict},
};

#[test]
fn a_name_that_moves_while_it_is_removed_stays() {
    let stack = Stack::start(&ENGINES);
    let engine = Engine::containerd(&stack);
    let proxied = Proxied::new(engine);
    for tag in ["moves:1", "moves:2"] {
        proxied.succeeds(&Application::new(tag), tag);
    }
    let proxy = Proxy::new(&stack, stack.containerd_address());
    proxy.rule(|message| {
        let deletes = message.path.ends_with("Images/Delete") && message.direction == Direction::Request;
        if deletes { Verdict::Hold } else { Verdict::Pass }
    });
    let args = engine.args_behind("", proxy.path().to_str().unwrap());
    let removing = linkspan(["rm", "moves:1"]).args(args).spawn();
    proxy.stopped();
    let [from, to] = ["docker.io/library/moves:2", "docker.io/library/moves:1"];
    stack.ctr(engine.namespace, ["images", "tag", "--force", from, to]).ok();
    proxy.release();
    let current = engine.digest("moves:2").unwrap();
    assert_stderr_has(&removing.wait(), &["`moves:1` was not removed", &current]);
    assert_eq!(engine.digest("moves:1"), Some(current));
    engine.is_sound();
}
