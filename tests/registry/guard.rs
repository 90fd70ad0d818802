//! Who is served.

use crate::common::{Linkspan, Stack, linkspan, text, unix};
use crate::http::request;
use crate::served::Served;

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_browsers_and_other_names_of_this_machine_are_refused() {
    let served = Served::layout(&[]).await;
    let (address, port) = (&served.address, served.address.rsplit_once(':').unwrap().1);
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(request(address, "GET", "/v2/", &[("Host", &host)]).status, 200, "{host}");
    }
    for headers in [
        &[("Host", "rebound.example")][..],
        &[("Host", "localhost"), ("Origin", "http://rebound.example")],
        &[("Host", "localhost"), ("Origin", "null")],
        &[("Host", "localhost"), ("Sec-Fetch-Site", "cross-site")],
    ] {
        for (method, target) in [("GET", "/v2/"), ("GET", "/_linkspan/status"), ("POST", "/v2/a/blobs/uploads/")] {
            let response = request(address, method, target, headers);
            assert_eq!((response.status, response.code().as_str()), (403, "DENIED"), "{headers:?} {target}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_a_door_too_and_other_machines_get_none() {
    let stack = Stack::shared();
    let (socket, folder) = (stack.fresh_path("-registry.sock"), tempfile::tempdir().unwrap());
    let engine = ["--engine", "layout", "--layout", text(folder.path())];
    let listen = unix(&socket);
    let args = [&engine[..], &["--registry-listen", &listen]].concat();
    let mut running = Linkspan::start_at(stack, &args, &[], vec![socket]);
    let response = request(&listen, "GET", "/v2/", &[("Host", "anything.example")]);
    assert_eq!(response.status, 200);
    assert!(running.terminate().success(), "{}", running.log());
    let refused = linkspan(["serve", "--registry-listen", "tcp://0.0.0.0:0"]).args(engine).fails();
    assert!(refused.stderr.contains("can be reached from other machines"), "{refused}");
}

#[test]
fn an_engine_whose_images_cannot_be_read_has_no_registry() {
    let stack = Stack::classic();
    let args = ["serve", "--engine", "docker-classic", "--docker-host", stack.docker_classic_host()];
    let refused = linkspan(args).args(["--registry-listen", "tcp://127.0.0.1:0"]).fails();
    assert!(refused.stderr.contains("docker-classic does not offer reading its images"), "{refused}");
    assert!(refused.stderr.contains("hint: "), "{refused}");
}
