//! Names that are set only if they resolve to the expected root.

use super::*;

/// An image that can be committed, and what its name must resolve to then.
struct Ready(Box<dyn ImageTransaction>, Precondition);

impl Ready {
    async fn commit(&self, names: &[Reference]) -> Result<(), EngineError> {
        self.0.prepare().await?.commit(names, std::slice::from_ref(&self.1)).await
    }
}

/// Exports up to the commit, which requires that the name resolves to one of `expected`.
async fn ready(engine: &RepositoryEngine, image: &Image, export: &str, expected: &[Option<&Image>]) -> Ready {
    let origin = Origin { export: export.to_owned(), ..origin() };
    let lease = engine.lease(&origin, Lifetime::Process).await.unwrap();
    let expected = expected.iter().map(|image| image.map(|image| image.root.digest.clone())).collect();
    let precondition = Precondition { name: names(&["shared"]).remove(0), expected };
    Ready(arrive(&lease, image).await.unwrap(), precondition)
}

#[tokio::test]
async fn of_two_processes_that_set_a_name_one_fails() {
    // Two engines share no state, like two processes.
    let root = folder();
    let (here, there) = (engine(root.path()).await, engine(root.path()).await);
    let [first, left, right] = [b"1", b"2", b"3"].map(|layer| Image::new(&[layer]));
    let shared = names(&["shared"]);
    let refused = |error: EngineError, image: &Image| {
        let EngineError::NameMoved { current, .. } = error else { panic!("{error}") };
        assert_eq!(current.as_ref(), Some(&image.root.digest));
    };

    let new = ready(&here, &first, "a", &[None]).await;
    let late = ready(&there, &left, "b", &[None]).await;
    new.commit(&shared).await.unwrap();
    refused(late.commit(&shared).await.unwrap_err(), &first);

    let one = ready(&here, &left, "c", &[Some(&first)]).await;
    let other = ready(&there, &right, "d", &[Some(&first)]).await;
    other.commit(&shared).await.unwrap();
    refused(one.commit(&shared).await.unwrap_err(), &right);
    // The name may be set again to the root that it already resolves to.
    let same = ready(&here, &right, "e", &[None, Some(&right)]).await;
    same.commit(&shared).await.unwrap();
    let expected = [("docker.io/library/shared:latest".to_owned(), right.root.digest.clone())];
    let found: Vec<_> = read_as_other_tool(root.path()).into_iter().collect();
    assert!(expected.iter().all(|pair| found.contains(pair)), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_processes_that_make_a_layout_each_sets_its_name() {
    for round in 0..20 {
        let folder = folder();
        let root = folder.path().join("new");
        let exports = (0..4).map(|n| {
            let root = root.clone();
            tokio::spawn(async move {
                let image = Image::new(&[format!("{round} {n}").as_bytes()]);
                export(&engine(&root).await, &image, &names(&[&format!("name-{n}")])).await.unwrap();
            })
        });
        for export in exports.collect::<Vec<_>>() {
            export.await.unwrap();
        }
        assert_eq!(read_as_other_tool(&root).len(), 4, "round {round}");
    }
}
