use std::{fs, time::SystemTime};

use super::{writer::SHRINK_DELAY, *};
use crate::{instance::Instance, resolve::fixed::FixedResolver};

fn instances(ports: &[u16]) -> Vec<Instance> {
    let at = |port: &u16| Instance::new(&format!("i{port}"), format!("127.0.0.1:{port}").parse().unwrap());
    ports.iter().map(at).collect()
}

fn ports(shown: &Resolution) -> Vec<u16> {
    shown.instances.iter().flat_map(|all| all.iter()).map(|i| i.address.port()).collect()
}

fn web() -> ServiceName {
    "web".parse().unwrap()
}

/// The snapshot on disk.
fn on_disk(dir: &Path) -> Option<Vec<u16>> {
    let folder = SnapshotDir::new(dir.join("snapshots"));
    let snapshot = folder.load(&Key::new(&web(), String::new())).unwrap()?;
    Some(ports(&Resolution::found(snapshot.instances)))
}

/// Waits, in real time too, for threads do the writing.
async fn saved(dir: &Path, expected: &[u16]) {
    for _ in 0..3_000 {
        if on_disk(dir).as_deref() == Some(expected) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("{expected:?} was not saved, but {:?}", on_disk(dir));
}

#[tokio::test(start_paused = true)]
async fn a_set_outlives_the_process_that_received_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = FixedResolver::with(instances(&[1, 2]));
    let before = SnapshotResolver::new(registry.clone(), dir.path()).resolve(&web());
    saved(dir.path(), &[1, 2]).await;
    registry.set(instances(&[1, 2, 3]));
    saved(dir.path(), &[1, 2, 3]).await;
    drop(before);

    let registry = FixedResolver::unresolved();
    let mut after = SnapshotResolver::new(registry.clone(), dir.path()).resolve(&web());
    registry.fail("refused");
    let shown = after.wait_for(|now| now.instances.is_some()).await.unwrap().clone();
    assert_eq!((ports(&shown), shown.error.as_deref()), (vec![1, 2, 3], Some("refused")));
    assert!(shown.snapshot_saved_at.is_some_and(|at| at <= SystemTime::now()));
    registry.set(instances(&[2, 3]));
    let shown = after.wait_for(|now| now.snapshot_saved_at.is_none()).await.unwrap().clone();
    assert_eq!(shown, Resolution::found(instances(&[2, 3])));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_does_not_answer_at_all_has_a_head_start_of_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let _before = SnapshotResolver::new(FixedResolver::with(instances(&[1])), dir.path()).resolve(&web());
    saved(dir.path(), &[1]).await;
    let silent = FixedResolver::unresolved();
    let mut after = SnapshotResolver::new(silent.clone(), dir.path()).resolve(&web());
    let begun = tokio::time::Instant::now();
    after.changed().await.unwrap();
    assert!(
        begun.elapsed() >= SNAPSHOT_DELAY && begun.elapsed() < 2 * SNAPSHOT_DELAY,
        "{:?}",
        begun.elapsed()
    );
    assert!(after.borrow().snapshot_saved_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_registry_replaces_the_file_only_after_ten_minutes() {
    let dir = tempfile::tempdir().unwrap();
    let registry = FixedResolver::with(instances(&[1, 2, 3]));
    let mut view = SnapshotResolver::new(registry.clone(), dir.path()).resolve(&web());
    saved(dir.path(), &[1, 2, 3]).await;
    let wiped = tokio::time::Instant::now();
    registry.set([]);
    view.wait_for(|now| ports(now).is_empty()).await.unwrap();
    tokio::time::sleep(SHRINK_DELAY / 2).await;
    // An error in between: nothing was confirmed, and the time begins anew.
    registry.fail("no leader");
    tokio::time::sleep(SHRINK_DELAY).await;
    assert_eq!(on_disk(dir.path()).as_deref(), Some(&[1, 2, 3][..]));
    registry.set([]);
    saved(dir.path(), &[]).await;
    assert!(wiped.elapsed() >= SHRINK_DELAY * 5 / 2, "{:?}", wiped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_a_wiped_registry_is_not_believed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let before =
        SnapshotResolver::new(FixedResolver::with(instances(&[1, 2, 3])), dir.path()).resolve(&web());
    saved(dir.path(), &[1, 2, 3]).await;
    drop(before);
    let registry = FixedResolver::with([]);
    let mut view = SnapshotResolver::new(registry.clone(), dir.path()).resolve(&web());
    let shown = view.wait_for(|now| now.instances.is_some()).await.unwrap().clone();
    assert_eq!(ports(&shown), [1, 2, 3]);
    let shown = view.wait_for(|now| now.snapshot_saved_at.is_none()).await.unwrap().clone();
    assert_eq!(shown, Resolution::found(Vec::new()));
    assert_eq!(on_disk(dir.path()).as_deref(), Some(&[1, 2, 3][..]));
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_or_read_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be: no user can write there.
    fs::write(dir.path().join("snapshots"), "in the way").unwrap();
    let registry = FixedResolver::with(instances(&[1]));
    let snapshot_saved_at = SnapshotResolver::new(registry.clone(), dir.path());
    let mut view = snapshot_saved_at.resolve(&web());
    for port in 1..5 {
        registry.set(instances(&[port]));
        view.wait_for(|now| ports(now) == [port]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(snapshot_saved_at.store.is_failing.load(std::sync::atomic::Ordering::Relaxed));
    fs::remove_file(dir.path().join("snapshots")).unwrap();
    registry.set(instances(&[9]));
    saved(dir.path(), &[9]).await;
}

#[tokio::test(start_paused = true)]
async fn the_look_up_ends_with_the_last_who_looks() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, source) = watch::channel(Resolution::default());
    struct One(watch::Receiver<Resolution>);
    impl Resolver for One {
        fn resolve(&self, _: &ServiceName) -> watch::Receiver<Resolution> {
            self.0.clone()
        }
    }
    let view = SnapshotResolver::new(One(source), dir.path()).resolve(&web());
    drop(view);
    timeout(Duration::from_secs(10), sender.closed()).await.expect("it ends");
}
