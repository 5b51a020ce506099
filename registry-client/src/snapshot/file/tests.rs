use super::*;

const FRESH: Duration = Duration::from_secs(300);

fn folder() -> (tempfile::TempDir, SnapshotDir) {
    let dir = tempfile::tempdir().unwrap();
    let folder = SnapshotDir::new(dir.path().join("made/when/needed"));
    (dir, folder)
}

fn key() -> Key {
    Key::new(&"Web".parse().unwrap(), String::new())
}

fn instances(ports: &[u16]) -> Vec<Instance> {
    let at = |port: &u16| {
        let mut instance = Instance::new(&format!("web-{port}"), format!("[::1]:{port}").parse().unwrap());
        instance.health = InstanceHealth::Warning;
        instance.reason = "check `c` is warning (\"hm\")".to_owned();
        instance.tags = vec!["a".to_owned()];
        instance.meta.insert("version".to_owned(), "v2".to_owned());
        instance.locality = Some(Locality::new("eu", "a").unwrap());
        instance
    };
    ports.iter().map(at).collect()
}

fn loaded(folder: &SnapshotDir) -> Vec<Instance> {
    folder.load(&key()).unwrap().unwrap().instances.to_vec()
}

/// Makes the file look saved so long ago.
fn age(folder: &SnapshotDir, by: Duration) {
    let path = folder.path(&key());
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json["saved_unix_s"] = (json["saved_unix_s"].as_u64().unwrap() - by.as_secs()).into();
    fs::write(path, json.to_string()).unwrap();
}

#[test]
fn what_was_saved_is_read_again_whole() {
    let (_dir, folder) = folder();
    assert!(folder.load(&key()).unwrap().is_none());
    assert_eq!(folder.save(&key(), &instances(&[1, 2]), FRESH, false).unwrap(), SaveOutcome::Written);
    assert_eq!(loaded(&folder), instances(&[1, 2]));
    assert!(folder.load(&key()).unwrap().unwrap().age() < FRESH);
}

#[test]
fn a_file_of_a_version_that_knew_no_locality_is_read() {
    let (_dir, folder) = folder();
    folder.save(&key(), &instances(&[1]), FRESH, false).unwrap();
    let path = folder.path(&key());
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let locality = json["instances"][0].as_object_mut().unwrap().remove("locality");
    assert_eq!(locality, Some(serde_json::json!({"region": "eu", "zone": "a"})));
    fs::write(&path, json.to_string()).unwrap();
    let mut earlier = instances(&[1]);
    earlier[0].locality = None;
    assert_eq!(loaded(&folder), earlier);
}

#[cfg(unix)]
#[test]
fn a_file_is_its_owners_alone_and_nothing_else_is_left() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, folder) = folder();
    folder.save(&key(), &instances(&[1]), FRESH, false).unwrap();
    folder.save(&key(), &instances(&[2]), FRESH, false).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder.path(&key())), mode(&folder.dir)), (0o600, 0o700));
    assert_eq!(fs::read_dir(&folder.dir).unwrap().count(), 1);
}

#[test]
fn each_scope_has_a_file_and_no_name_leaves_the_folder() {
    let (_dir, folder) = folder();
    let name = |service: &str, scope: &str| {
        let path = folder.path(&Key::new(&service.parse().unwrap(), scope.to_owned()));
        assert_eq!(path.parent(), Some(folder.dir.as_path()));
        path
    };
    assert!(name("Web", "").ends_with("web.json"));
    assert_eq!(name("web", ""), name("WEB", ""));
    let all = [name("web", ""), name("web", "?dc=a"), name("web", "?dc=b"), name("w", "../../../etc/x")];
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    // A name that is as long as a service's may be.
    assert!(name(&"a".repeat(128), "x").file_name().unwrap().len() < 200);
}

#[test]
fn an_unchanged_set_is_written_again_only_for_its_date() {
    let (_dir, folder) = folder();
    let save = || folder.save(&key(), &instances(&[1]), FRESH, false).unwrap();
    assert_eq!([save(), save()], [SaveOutcome::Written, SaveOutcome::Unchanged]);
    age(&folder, FRESH);
    assert_eq!([save(), save()], [SaveOutcome::Written, SaveOutcome::Unchanged]);
}

#[test]
fn an_empty_or_much_smaller_set_replaces_a_good_one_only_when_believed() {
    let (_dir, folder) = folder();
    let save =
        |ports: &[u16], is_confirmed| folder.save(&key(), &instances(ports), FRESH, is_confirmed).unwrap();
    assert_eq!(save(&[], false), SaveOutcome::Deferred, "nothing is there yet, and nothing is worth saving");
    assert_eq!(save(&[1, 2, 3], false), SaveOutcome::Written);
    assert_eq!([save(&[], false), save(&[1], false)], [SaveOutcome::Deferred, SaveOutcome::Deferred]);
    assert_eq!(loaded(&folder), instances(&[1, 2, 3]));
    assert_eq!(save(&[1, 2], false), SaveOutcome::Written, "one of three may go");
    assert_eq!(save(&[7, 8], false), SaveOutcome::Written, "all may be replaced");
    assert_eq!(save(&[], true), SaveOutcome::Written);
    assert_eq!(loaded(&folder), []);
}

#[test]
fn a_set_that_is_too_old_is_not_used_and_is_replaced() {
    let (_dir, folder) = folder();
    folder.save(&key(), &instances(&[1, 2, 3]), FRESH, false).unwrap();
    age(&folder, MAX_AGE + Duration::from_secs(60));
    let logged = folder.load(&key()).unwrap_err().to_string();
    assert_eq!(logged, "it is 7 days old");
    assert_eq!(folder.save(&key(), &instances(&[1]), FRESH, false).unwrap(), SaveOutcome::Written);
}

#[test]
fn a_set_that_would_be_too_large_to_read_is_not_written() {
    let (_dir, folder) = folder();
    let mut large = instances(&[1]);
    large[0].reason = "x".repeat(MAX_FILE_BYTES as usize);
    assert_eq!(folder.save(&key(), &large, FRESH, false).unwrap(), SaveOutcome::TooLarge);
    assert!(folder.load(&key()).unwrap().is_none());
}

#[test]
fn each_kind_of_unusable_file_is_distinguished() {
    let (_dir, folder) = folder();
    folder.save(&key(), &instances(&[1]), FRESH, false).unwrap();
    let path = folder.path(&key());
    let good = fs::read_to_string(&path).unwrap();
    let cases = [
        (good.replace("\"format\":1", "\"format\":2"), "its format is 2 and not 1"),
        (good.replace("\"service\":\"web\"", "\"service\":\"other\""), "another service"),
        (good.replace("\"scope\":\"\"", "\"scope\":\"?dc=b\""), "another service, datacenter"),
        (good.replace("[::1]:1", "0.0.0.0:1"), "can be dialled"),
        (good.replace("\"weight\":1", "\"weight\":0"), "weight of `web-1` is 0"),
        (good.replace("\"region\":\"eu\"", "\"region\":\"\""), "zone `a` needs the region"),
        (good[..good.len() / 2].to_owned(), "EOF"),
        (String::new(), "EOF"),
        (" ".repeat(MAX_FILE_BYTES as usize + 1), "longer than"),
    ];
    for (text, words) in cases {
        fs::write(&path, &text).unwrap();
        let logged = folder.load(&key()).unwrap_err().to_string();
        assert!(logged.contains(words), "{logged} for {words}");
    }
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(folder.load(&key()), Err(SnapshotError::NotAFile)));
}

#[test]
fn no_mutation_of_a_file_does_harm() {
    let (_dir, folder) = folder();
    folder.save(&key(), &instances(&[1, 2]), FRESH, false).unwrap();
    let good = fs::read(folder.path(&key())).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut used, mut refused) = (0, 0);
    for _ in 0..1_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes.truncate(at.max(1)),
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"[]{},:\"9-"[random.usize(..9)]),
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        match Stored::parse(&bytes).and_then(|stored| stored.snapshot(&key())) {
            // Whatever is used can be dialled, and has no date to come.
            Ok(snapshot) => {
                assert!(snapshot.instances.iter().all(|i| i.address.port() > 0 && i.weight > 0));
                assert!(snapshot.saved <= SystemTime::now());
                used += 1;
            }
            Err(why) => {
                assert!(why.to_string().len() < 500, "{why}");
                refused += 1;
            }
        }
    }
    assert!(used > 20 && refused > 200, "{used} used, {refused} refused");
}

#[test]
fn what_a_killed_process_left_is_removed_and_what_another_writes_is_not() {
    let (_dir, folder) = folder();
    create_dir(&folder.dir).unwrap();
    let [old, young] = [".new-old", ".new-young"].map(|name| folder.dir.join(name));
    for path in [&old, &young] {
        fs::write(path, "half").unwrap();
    }
    let long_ago = SystemTime::now() - 2 * MAX_TEMP_AGE;
    File::options().write(true).open(&old).unwrap().set_modified(long_ago).unwrap();
    folder.save(&key(), &instances(&[1]), FRESH, false).unwrap();
    assert_eq!([old.exists(), young.exists()], [false, true]);
}

#[test]
fn writers_that_share_a_file_leave_a_whole_one() {
    let (_dir, folder) = folder();
    std::thread::scope(|scope| {
        for writer in 1..=4_u16 {
            let folder = &folder;
            scope.spawn(move || {
                for turn in 0..25 {
                    let set = instances(&[writer, 100 + turn, 200 + turn]);
                    folder.save(&key(), &set, Duration::ZERO, false).unwrap();
                    assert_eq!(loaded(folder).len(), 3);
                }
            });
        }
    });
    assert_eq!(fs::read_dir(&folder.dir).unwrap().count(), 1);
}
