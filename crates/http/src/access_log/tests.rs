use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use outrider_net::WorkerCx;
use outrider_stats::Store;
use prost::Message;
use prost::Name;
use tokio::task::LocalSet;

use super::*;
use crate::route::tests::head;
use crate::route::tests::stream as new_stream;

/// A directory for one test, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("outrider-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn config(path: &str, format: &str) -> api::AccessLog {
    #[expect(deprecated, reason = "the shortest way to configure a format")]
    let format = file_access_log::AccessLogFormat::Format(format.to_owned());
    let file = FileAccessLog {
        path: path.to_owned(),
        access_log_format: Some(format),
    };
    api::AccessLog {
        config_type: Some(api::access_log::ConfigType::TypedConfig(Any {
            type_url: FileAccessLog::type_url(),
            value: file.encode_to_vec(),
        })),
        ..Default::default()
    }
}

fn build(config: &api::AccessLog, files: &LogFiles) -> Result<AccessLog, String> {
    AccessLog::build(config, &FieldPath::root(), files).map_err(|errors| errors.to_string())
}

fn on_a_worker<T>(store: &Arc<Store>, test: impl AsyncFnOnce(Rc<WorkerCx>) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let cx = Rc::new(WorkerCx::new(0, store, 1));
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(cx.timers.clone().run());
        test(cx).await
    })
}

#[test]
fn lines_are_written_when_the_log_ends() {
    let directory = Directory::new("lines");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let path = directory.file("log");
    let log = build(&config(&path, "%REQ(:PATH)%\n"), &files).unwrap();
    on_a_worker(&store, async |cx| {
        let worker = log.worker(&cx.timers);
        for path in ["/a", "/b"] {
            worker.log(&new_stream(head("GET", "h", path, &[])));
        }
    });
    files.finish();
    assert_eq!(fs::read_to_string(&path).unwrap(), "/a\n/b\n");
}

#[test]
fn lines_are_flushed_within_the_flush_interval() {
    let directory = Directory::new("interval");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let path = directory.file("log");
    let log = build(&config(&path, "%REQ(:PATH)%\n"), &files).unwrap();
    on_a_worker(&store, async |cx| {
        let worker = log.worker(&cx.timers);
        worker.log(&new_stream(head("GET", "h", "/a", &[])));
        tokio::time::sleep(Duration::from_secs(11)).await;
        worker.log(&new_stream(head("GET", "h", "/later", &[])));
        files.finish();
        assert_eq!(fs::read_to_string(&path).unwrap(), "/a\n");
        drop(worker);
    });
}

#[test]
fn lines_of_several_logs_keep_their_order() {
    let directory = Directory::new("order");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let path = directory.file("log");
    let logs =
        ["1 %REQ(:PATH)%\n", "2 %REQ(:PATH)%\n"].map(|f| build(&config(&path, f), &files).unwrap());
    on_a_worker(&store, async |cx| {
        let workers = logs.map(|log| log.worker(&cx.timers));
        for path in ["/a", "/b"] {
            let stream = new_stream(head("GET", "h", path, &[]));
            workers.iter().for_each(|log| log.log(&stream));
        }
    });
    files.finish();
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written, "1 /a\n2 /a\n1 /b\n2 /b\n");
}

#[test]
fn the_names_of_standard_streams_mean_the_streams() {
    assert_eq!(Destination::named("/dev/stdout"), Destination::Stdout);
    assert_eq!(Destination::named("/dev/fd/2"), Destination::Stderr);
    assert_eq!(Destination::named("x"), Destination::File("x".to_owned()));
}

#[test]
fn one_file_serves_all_logs_that_name_it() {
    let directory = Directory::new("shared");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let path = directory.file("log");
    let first = build(&config(&path, "1\n"), &files).unwrap();
    let second = build(&config(&path, "2\n"), &files).unwrap();
    assert!(Arc::ptr_eq(&first.file, &second.file));
}

#[test]
fn a_rotated_file_is_opened_again() {
    let directory = Directory::new("rotated");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let path = directory.file("log");
    let log = build(&config(&path, "line\n"), &files).unwrap();
    log.file.write(b"old\n".to_vec(), 1);
    // The channel keeps its order: once the second write is visible, the first one has been handled.
    fs::rename(&path, directory.file("log.1")).unwrap();
    files.reopen();
    log.file.write(b"new\n".to_vec(), 1);
    files.finish();
    let both =
        fs::read_to_string(directory.file("log.1")).unwrap() + &fs::read_to_string(&path).unwrap();
    assert!(both.ends_with("new\n") && both.len() == 8, "{both:?}");
    assert!(fs::read_to_string(&path).unwrap().ends_with("new\n"));
}

#[test]
fn lines_for_a_writer_that_has_ended_are_counted_as_dropped() {
    let directory = Directory::new("dropped");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let log = build(&config(&directory.file("log"), "line\n"), &files).unwrap();
    // The writer has ended, so no message is received any more.
    files.finish();
    log.file.write(b"1\n2\n".to_vec(), 2);
    assert_eq!(log.file.access_log_stats.lines_dropped.value(), 2);
    assert_eq!(log.file.stats.write_total_buffered.value(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_refused_with_envoys_message() {
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    for (path, message) in [
        (
            "/nope/x.log",
            "unable to open file '/nope/x.log': No such file or directory",
        ),
        ("/tmp", "unable to open file '/tmp': Is a directory"),
    ] {
        let error = build(&config(path, ""), &files).unwrap_err();
        assert_eq!(error, format!("typed_config.path: {message}"));
    }
}

#[test]
fn an_exchange_prints_in_the_default_format() {
    let directory = Directory::new("exchange");
    let store = Store::new();
    let files = LogFiles::new(FlushOptions::default(), &store);
    let path = directory.file("log");
    let log = AccessLog::to_file(&path, &FieldPath::root(), &files).unwrap();
    let address = outrider_net::Address::pipe("/run/admin.sock", 0);
    let headers = [("host", "admin"), ("user-agent", "curl")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    on_a_worker(&store, async |cx| {
        log.worker(&cx.timers).log_exchange(&LoggedExchange {
            started: std::time::UNIX_EPOCH,
            duration: Duration::from_millis(3),
            protocol: http::Version::HTTP_2,
            method: "GET",
            target: "/stats?usedonly",
            headers: &headers,
            local_address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
            status: 200,
            details: "admin_filter_response",
            flag: None,
            response_headers: &[],
            received: 0,
            sent: 17,
            local: &address,
            remote: &address,
            runtime: &Default::default(),
        });
    });
    files.finish();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "[1970-01-01T00:00:00.000Z] \"GET /stats?usedonly HTTP/2\" 200 - 0 17 3 - \"-\" \"curl\" \"-\" \"admin\" \"-\"\n"
    );
}
