use super::*;

fn run(arguments: &[&str]) -> Result<Options, String> {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect();
    match parse("envoy", &arguments) {
        Ok(CliAction::Run(options)) => Ok(*options),
        Ok(CliAction::Print(text)) => panic!("printed {text}"),
        Err(RefusedCommandLine(text)) => Err(text),
    }
}

#[test]
fn both_spellings_and_an_attached_value_mean_the_same() {
    for arguments in [
        &["-c", "a.yaml", "--concurrency", "3", "-l", "warn"][..],
        &[
            "--config-path",
            "a.yaml",
            "--concurrency=3",
            "--log-level",
            "warning",
        ],
        &[
            "--config-path=a.yaml",
            "--concurrency",
            "3",
            "--log-level=warn",
        ],
        &[
            "-c=a.yaml",
            "--concurrency",
            "3",
            "-l",
            "warn",
            "--",
            "--nonsense",
        ],
    ] {
        let options = run(arguments).unwrap();
        assert_eq!(options.config_path, "a.yaml", "{arguments:?}");
        assert_eq!(options.concurrency, 3, "{arguments:?}");
        assert_eq!(options.log_level, Level::Warning, "{arguments:?}");
    }
}

#[test]
fn the_usual_container_arguments_are_read() {
    let options = run(&[
        "-c",
        "/etc/envoy/envoy.yaml",
        "--service-cluster",
        "front",
        "--service-node",
        "n1",
        "--service-zone",
        "z",
        "--drain-time-s",
        "5",
        "--parent-shutdown-time-s",
        "10",
        "--log-path",
        "/tmp/x.log",
        "--disable-hot-restart",
        "--component-log-level",
        "upstream:debug,config:trace",
        "--file-flush-interval-msec",
        "100",
        "--stats-tag",
        "pod:a-1",
        "--stats-tag",
        "ns:b",
        "--concurrency",
        "0",
        "--config-yaml",
        "{a: b=c}",
    ])
    .unwrap();
    assert_eq!(options.drain_time, Some(Duration::from_secs(5)));
    assert_eq!(options.parent_shutdown_time, Duration::from_secs(10));
    assert_eq!(options.file_flush_interval, Duration::from_millis(100));
    assert_eq!(options.concurrency, 1);
    assert_eq!(options.config_yaml, "{a: b=c}");
    assert_eq!(options.stats_tags.len(), 2);
    assert!(options.disable_hot_restart);
}

/// First lines as Envoy 1.40.0 prints them.
#[test]
fn refuses_what_envoy_refuses_in_its_words() {
    for (arguments, message) in [
        (
            &["--bogus"][..],
            "PARSE ERROR: Argument: --bogus\n             Couldn't find match for argument\n",
        ),
        (
            &["extra"],
            "PARSE ERROR: Argument: extra\n             Couldn't find match for argument\n",
        ),
        (
            &["-cfoo"],
            "PARSE ERROR: Argument: -cfoo\n             Couldn't find match for argument\n",
        ),
        (
            &["-c"],
            "PARSE ERROR: Argument: -c (--config-path)\n             Missing a value for this argument!\n",
        ),
        (
            &["-c", "a", "-c", "b"],
            "PARSE ERROR: Argument: -c (--config-path)\n             Argument already set!\n",
        ),
        (
            &["--concurrency", "1x"],
            "PARSE ERROR: Argument: (--concurrency)\n             Couldn't read argument value from string '1x'\n",
        ),
        (
            &["--base-id", "5000000000"],
            "PARSE ERROR: Argument: (--base-id)\n             Couldn't read argument value from string '5000000000'\n",
        ),
        (
            &["--disable-hot-restart", "--disable-hot-restart"],
            "PARSE ERROR: Argument: (--disable-hot-restart)\n             Argument already set!\n",
        ),
        (
            &["--version=1"],
            "PARSE ERROR: Argument: --version=1\n             Couldn't find match for argument\n",
        ),
        (&["--mode", "bad"], "error: unknown mode 'bad'\n"),
        (&["-l", "bad"], "error: invalid log level specified 'bad'\n"),
        (
            &["--component-log-level", "foo"],
            "error: component log level not correctly specified 'foo'\n",
        ),
        (
            &["--component-log-level", "foo:debug"],
            "error: invalid component specified 'foo'\n",
        ),
        (
            &["--component-log-level", "upstream:foo"],
            "error: invalid log level specified 'foo'\n",
        ),
        (
            &["--local-address-ip-version", "v5"],
            "error: unknown IP address version 'v5'\n",
        ),
        (
            &["--stats-tag", "foo"],
            "error: misformatted stats-tag 'foo'\n",
        ),
        (
            &["--stats-tag", "a.b:c"],
            "error: misformatted stats-tag 'a.b:c' contains invalid char in 'a.b'\n",
        ),
        (
            &["--stats-tag", "a:b.c"],
            "error: misformatted stats-tag 'a:b.c' contains invalid char in 'b.c'\n",
        ),
        (
            &["--restart-epoch", "1", "--use-dynamic-base-id"],
            "error: cannot use --restart-epoch=1 with --use-dynamic-base-id\n",
        ),
    ] {
        let error = run(arguments).unwrap_err();
        assert!(error.starts_with(message), "{arguments:?}: {error}");
    }
}

#[test]
fn a_usage_error_ends_as_envoys_does() {
    let error = run(&["--bogus"]).unwrap_err();
    assert!(
        error.ends_with(
            "For complete USAGE and HELP type: \n   envoy --help\n\n--bogus -- Couldn't find match for argument\n"
        ),
        "{error}"
    );
}

#[test]
fn an_epoch_needs_a_start_without_a_parent() {
    assert!(run(&["--restart-epoch", "1"]).is_err());
    assert!(run(&["--restart-epoch", "1", "--disable-hot-restart"]).is_ok());
    assert!(run(&["--restart-epoch", "1", "--skip-hot-restart-on-no-parent"]).is_ok());
}

#[test]
fn help_names_every_flag_of_envoy() {
    let Ok(CliAction::Print(help)) = parse("envoy", &["--help".to_owned()]) else {
        panic!("no help");
    };
    for flag in "stats-tag enable-core-dump socket-mode socket-path disable-extensions cpuset-threads \
        enable-mutex-tracing disable-hot-restart mode parent-shutdown-time-s drain-strategy drain-time-s \
        file-flush-min-size-kb file-flush-interval-msec service-zone service-node service-cluster \
        hot-restart-version restart-epoch log-path enable-fine-grain-logging log-format-escaped log-format \
        component-log-level log-level local-address-ip-version admin-address-path log-stacktrace-single-entry \
        skip-deprecated-logs ignore-unknown-dynamic-fields reject-unknown-dynamic-fields \
        allow-unknown-static-fields allow-unknown-fields config-yaml config-path concurrency base-id-path \
        skip-hot-restart-parent-stats skip-hot-restart-on-no-parent use-dynamic-base-id base-id version help"
        .split_whitespace()
    {
        assert!(help.contains(&format!("--{flag}")), "--{flag} is missing");
    }
    assert!(help.lines().all(|line| line.len() <= 110), "{help}");
}

#[test]
fn the_version_line_has_envoys_shape() {
    let Ok(CliAction::Print(text)) =
        parse("envoy", &["--version".to_owned(), "--bogus".to_owned()])
    else {
        panic!("no version");
    };
    let (program, rest) = text.trim().split_once("  version: ").unwrap();
    assert_eq!(program, "envoy");
    assert_eq!(rest.split('/').nth(1), Some("1.40.0"));
    assert_eq!(rest.split('/').count(), 5);
}
