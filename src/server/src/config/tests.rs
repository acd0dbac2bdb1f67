use std::io::Write;
use std::time::Duration;

use isthmus_contract::model::Overflow;

use super::mqtt::{QueueOverflow, SessionExpiry, SysInterval};
use super::*;

fn load_text(text: &str, sources: Sources) -> Result<Config, Vec<String>> {
    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(text.as_bytes()).expect("written");
    let sources = Sources { file: Some(file.path().to_owned()), ..sources };
    let name = file.path().display().to_string();
    Config::load(&sources).map_err(|problems| {
        problems.iter().map(|problem| problem.to_string().replace(&name, "FILE")).collect()
    })
}

fn problems(text: &str) -> Vec<String> {
    load_text(text, Sources::default()).expect_err("a problem")
}

fn environment(pairs: &[(&str, &str)]) -> Sources {
    let environment = pairs.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Sources { environment, ..Sources::default() }
}

#[test]
fn the_example_is_exactly_the_defaults() {
    let example = include_str!("../../../../config/isthmus.toml");
    assert_eq!(load_text(example, Sources::default()), Ok(Config::default()));
}

#[test]
fn the_example_mentions_every_key() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/isthmus.toml").into();
    let (entries, problems) = Sources { file: Some(path), ..Sources::default() }.read();
    assert_eq!(problems, []);
    let missing: Vec<_> =
        keys::paths().filter(|path| entries.iter().all(|entry| entry.key != *path)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(load_text("", Sources::default()), Ok(Config::default()));
}

#[test]
fn unknown_keys_name_the_nearest_one_and_the_line() {
    assert_eq!(
        problems("[limits]\n\nchanels_max = 5\n"),
        ["FILE:3: limits.chanels_max: unknown key; did you mean `limits.channels_max`?"]
    );
    assert_eq!(
        problems("channels_max = 5\n"),
        ["FILE:1: channels_max: unknown key; did you mean `limits.channels_max`?"]
    );
    assert_eq!(
        problems("[limit]\nchannels_max = 5\n"),
        ["FILE:1: limit: unknown section; did you mean `limits`?"]
    );
    assert_eq!(problems("frobnicate = true\n"), ["FILE:1: frobnicate: unknown key; remove it"]);
    assert_eq!(
        problems("limits = 3\n"),
        ["FILE:1: limits: is a section; write [limits] with its keys below"]
    );
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let text =
        "[storage]\nsegment_bytes = \"64 M\"\n[amqp]\nheartbeat = 60\n[auth]\nguest = \"yes\"";
    let problems = problems(text);
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert!(problems[0].starts_with("FILE:2: storage.segment_bytes: `M` is not a unit"));
    assert!(problems[1].starts_with("FILE:4: amqp.heartbeat: must be a time with its unit"));
    assert!(problems[2].starts_with("FILE:6: auth.guest: must be true or false"));
}

#[test]
fn values_out_of_range_name_the_range() {
    assert_eq!(
        problems("[limits]\nframe_bytes_max = 100"),
        ["FILE:2: limits.frame_bytes_max: must be from 4 KiB to 16 MiB, not 100 B"]
    );
    assert_eq!(
        problems("[limits]\nchannels_max = 0"),
        ["FILE:2: limits.channels_max: must be from 1 to 65535, not 0"]
    );
    assert_eq!(
        problems("[amqp]\nheartbeat = \"1d\""),
        ["FILE:2: amqp.heartbeat: must be from 0s to 65535s, not 1d"]
    );
}

#[test]
fn listeners_of_later_versions_are_refused_with_the_reason() {
    assert_eq!(
        problems("[listeners]\naws = \"127.0.0.1:9324\""),
        [
            "FILE:2: listeners.aws: the AWS API is not served by this version; set it to \"off\" or remove it"
        ]
    );
    assert!(problems("[listeners]\nawss = \"127.0.0.1:9325\"")[0].contains("AWS API over TLS"));
    assert!(load_text("[listeners]\naws = \"off\"", Sources::default()).is_ok());
}

#[test]
fn stomp_has_settings_of_its_own() {
    let text = "[stomp]\nvhost = \"things\"\nhost_is_vhost = false\nbody_bytes_max = \"64 KiB\"\n\
                subscriptions_max = 5";
    let stomp = load_text(text, Sources::default()).expect("loaded").stomp;
    let expected = Stomp {
        vhost: "things".to_owned(),
        host_is_vhost: false,
        body_bytes_max: ByteSize::kib(64),
        subscriptions_max: 5,
    };
    assert_eq!(stomp, expected);
    assert_eq!(
        problems("[stomp]\nbody_bytes_max = \"17 MiB\""),
        ["FILE:2: stomp.body_bytes_max: must be from 1 KiB to 16 MiB, not 17 MiB"]
    );
}

#[test]
fn mqtt_has_settings_of_its_own() {
    let text = "[mqtt]\nvhost = \"things\"\nexchange = \"mqtt.topic\"\npacket_bytes_max = \"64 KiB\"\n\
                topic_alias_max = 0\ninflight_max = 10\nsubscriptions_max = 5";
    let mqtt = load_text(text, Sources::default()).expect("loaded").mqtt;
    let expected = Mqtt {
        vhost: "things".to_owned(),
        exchange: "mqtt.topic".to_owned(),
        packet_bytes_max: ByteSize::kib(64),
        topic_alias_max: 0,
        inflight_max: 10,
        subscriptions_max: 5,
        ..Mqtt::default()
    };
    assert_eq!(mqtt, expected);
    assert_eq!(
        problems("[mqtt]\npacket_bytes_max = \"17 MiB\""),
        ["FILE:2: mqtt.packet_bytes_max: must be from 1 KiB to 16 MiB, not 17 MiB"]
    );
    assert_eq!(
        problems("[mqtt]\nexchange = \"\""),
        ["FILE:2: mqtt.exchange: must be 1 to 255 bytes without control characters"]
    );
    let needs = "listeners.mqtts: needs tls.certificate and tls.key";
    assert!(problems("[listeners]\nmqtts = \"0.0.0.0:8883\"")[0].contains(needs));
}

#[test]
fn mqtt_sessions_have_limits() {
    let text = "[mqtt]\nconnect_bytes_max = \"4 KiB\"\nreceive_max = 7\nkeep_alive_max = \"5m\"\n\
                session_expiry_max = \"7d\"\nqueue_messages_max = 50\nqueue_bytes_max = \"1 MiB\"\n\
                queue_overflow = \"reject-publish\"\nqos0_messages_max = 20\n\
                qos0_bytes_max = \"64 KiB\"\nshared_expires = \"30s\"\n\
                response_information = \"answers/\"\nsys_interval = \"off\"";
    let mqtt = load_text(text, Sources::default()).expect("loaded").mqtt;
    let expected = Mqtt {
        connect_bytes_max: ByteSize::kib(4),
        receive_max: 7,
        keep_alive_max: TimeSpan::secs(300),
        session_expiry_max: SessionExpiry(Some(Duration::from_secs(7 * 86_400))),
        queue_messages_max: 50,
        queue_bytes_max: ByteSize::mib(1),
        queue_overflow: QueueOverflow(Overflow::RejectPublish),
        qos0_messages_max: 20,
        qos0_bytes_max: ByteSize::kib(64),
        shared_expires: TimeSpan::secs(30),
        response_information: "answers/".to_owned(),
        sys_interval: SysInterval(None),
        ..Mqtt::default()
    };
    assert_eq!(mqtt, expected);
    for (line, why) in [
        ("session_expiry_max = \"0s\"", None),
        ("session_expiry_max = \"never\"", None),
        ("sys_interval = \"1s\"", None),
        (
            "keep_alive_max = \"1500ms\"",
            Some("must be whole seconds from 0s to 65535s, not 1500ms"),
        ),
        ("keep_alive_max = \"1d\"", Some("must be whole seconds from 0s to 65535s, not 1d")),
        ("receive_max = 0", Some("must be from 1 to 65535, not 0")),
        (
            "queue_overflow = \"drop-tail\"",
            Some("must be \"drop-head\" or \"reject-publish\", not `drop-tail`"),
        ),
        ("sys_interval = \"1ms\"", Some("must be from 100ms to 1h, or \"off\", not 1ms")),
        ("sys_interval = \"of\"", Some("`of` is not a time; write it like \"10s\", or \"off\"")),
        (
            "session_expiry_max = \"40000d\"",
            Some("must be from 0s to 36500d, or \"never\", not 40000d"),
        ),
        (
            "session_expiry_max = 5",
            Some("must be a time with its unit, like \"10s\", not an integer, or \"never\""),
        ),
        (
            "response_information = \"$SYS/\"",
            Some(
                "must be the beginning of a topic: up to 1024 bytes without +, # or U+0000, and no $ at its start",
            ),
        ),
        ("queue_length_max = 5", Some("unknown key")),
    ] {
        let text = format!("[mqtt]\n{line}");
        let Some(why) = why else {
            load_text(&text, Sources::default()).expect("loaded");
            continue;
        };
        let key = line.split(' ').next().unwrap_or_default();
        let said = &problems(&text)[0];
        assert!(said.starts_with(&format!("FILE:2: mqtt.{key}: {why}")), "{said}");
    }
}

#[test]
fn listeners_with_tls_need_a_certificate() {
    let needs = "needs tls.certificate and tls.key, or \"off\"";
    assert_eq!(
        problems("[listeners]\namqps = \"0.0.0.0:5671\""),
        [format!("FILE:2: listeners.amqps: {needs}")]
    );
    let with = "[listeners]\namqps = \"0.0.0.0:5671\"\n[tls]\ncertificate = \"c\"\nkey = [\"k\"]";
    assert!(load_text(with, Sources::default()).is_ok());
}

#[test]
fn broken_toml_names_the_line_without_quoting_it() {
    let problems = problems("[log]\nlevel = \"hunter2\nformat = 3");
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("FILE:2: "), "{problems:?}");
    assert!(!problems[0].contains("hunter2"), "{problems:?}");
}

#[test]
fn an_unreadable_file_is_named() {
    let sources = Sources { file: Some("/does/not/exist.toml".into()), ..Sources::default() };
    let problems = Config::load(&sources).expect_err("no such file");
    assert!(problems[0].to_string().starts_with("/does/not/exist.toml: cannot be read"));
}

#[test]
fn later_sources_win() {
    let amqp = |sources: Sources| {
        let text = "[listeners]\namqp = \"127.0.0.1:1\"";
        load_text(text, sources).map(|config| config.listeners.amqp.0[0].port)
    };
    let environment = environment(&[("ISTHMUS__LISTENERS__AMQP", "127.0.0.1:2"), ("PATH", "/bin")]);
    assert_eq!(amqp(Sources::default()), Ok(1));
    let set =
        vec!["listeners.amqp=127.0.0.1:3".to_owned(), "listeners.amqp = 127.0.0.1:4".to_owned()];
    let both = Sources { set, environment: environment.environment.clone(), ..Sources::default() };
    assert_eq!(amqp(environment), Ok(2));
    assert_eq!(amqp(both), Ok(4));
}

#[test]
fn text_is_read_as_the_type_of_its_key() {
    let set = ["limits.channels_max=7", "auth.guest=false", "storage.segment_bytes=2 MiB"];
    let sources = Sources {
        set: set.map(str::to_owned).to_vec(),
        data_dir: Some("/elsewhere".into()),
        ..environment(&[("ISTHMUS__AMQP__DEFAULT_VHOST", "123")])
    };
    let config = Config::load(&sources).expect("valid");
    assert_eq!(config.limits.channels_max, 7);
    assert!(!config.auth.guest);
    assert_eq!(config.storage.segment_bytes, ByteSize::mib(2));
    assert_eq!(config.amqp.default_vhost, "123");
    assert_eq!(config.data_dir(), Path::new("/elsewhere"));
}

#[test]
fn problems_name_the_variable_or_option() {
    let sources = Sources {
        set: vec!["log.format=xml".to_owned(), "log.level".to_owned()],
        ..environment(&[("ISTHMUS__LISTENER__AMQP", "off")])
    };
    let problems: Vec<_> =
        Config::load(&sources).expect_err("problems").iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "--set: log.level: has no value; write KEY=VALUE",
            "ISTHMUS__LISTENER__AMQP: listener.amqp: unknown key; did you mean `listeners.amqp`?",
            "--set: log.format: must be \"text\" or \"json\", not `xml`",
        ]
    );
}

#[test]
fn log_levels_are_not_taken_for_modules() {
    assert!(problems("[log]\nlevel = \"verbose\"")[0].contains("debug or trace"));
    let text = "[log]\nlevel = \"info,isthmus_storage=debug\"";
    assert!(load_text(text, Sources::default()).is_ok());
}

#[test]
fn consensus_informs_of_nothing_unless_it_is_named() {
    let level = |text: &str| text.parse::<super::LogLevel>().expect("a level").0.to_string();
    assert_eq!(level("debug"), "openraft=error,debug");
    assert_eq!(level("off"), "openraft=off,off");
    assert_eq!(level("info,openraft=debug"), "openraft=debug,info");
}

#[test]
fn two_nodes_of_a_cluster_are_at_two_addresses() {
    let text = "[cluster]\nnode = 1\ntls = \"off\"\nnodes = [\"1@[::1]:7\", \"2@[::1]:7\"]";
    assert!(problems(text)[0].contains("nodes 1 and 2 both at [::1]:7"));
}

#[test]
fn keys_are_checked_against_each_other() {
    let text = "[listeners]\namqp = \"[::1]:80\"\nhttp = \"[::1]:80\"\n\
                [storage]\nsegment_bytes = \"1 GiB\"";
    let problems = problems(text);
    assert_eq!(
        problems,
        [
            "FILE:5: storage.segment_bytes: must be at most storage.checkpoint_after_bytes (512 MiB)",
            "FILE:3: listeners.http: [::1]:80 is already used by listeners.amqp",
        ]
    );
}

#[test]
fn at_least_one_listener_is_on() {
    assert!(
        problems("[listeners]\namqp = \"off\"\nhttp = \"off\"\nmqtt = \"off\"\nstomp = \"off\"\nany = \"off\"")[0]
            .contains("every listener is off")
    );
}
