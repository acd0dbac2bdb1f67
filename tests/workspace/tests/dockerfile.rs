//! What the Dockerfile copies and sets is there, and means what the broker makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use cargo_metadata::MetadataCommand;

fn root() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace is there")
}

fn read(name: &str) -> String {
    let text = fs::read_to_string(root().join(name));
    text.unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The instructions of the Dockerfile, one a line, without comments.
fn instructions() -> Vec<String> {
    let text = read("Dockerfile");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.join("\n").replace("\\\n", " ").lines().map(str::to_owned).collect()
}

/// What the arguments of each instruction called `name` are.
fn arguments(name: &str) -> Vec<Vec<String>> {
    let all = instructions();
    let found = all.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.map(|rest| rest.split_whitespace().map(str::to_owned).collect()).collect()
}

/// Paths that the build context has, in the workspace.
fn context() -> Vec<String> {
    let ignored = read(".dockerignore");
    let lines: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.first(), Some(&"*"), "all is left out that is not named");
    lines[1..].iter().map(|line| line.trim_start_matches('!').to_owned()).collect()
}

#[test]
fn the_context_has_every_member_of_the_workspace_and_nothing_that_is_not_there() {
    let context = context();
    for path in &context {
        assert!(root().join(path).exists(), ".dockerignore names {path}, which is not there");
    }
    let has = |path: &str| context.iter().any(|each| PathBuf::from(path).starts_with(each));
    assert!(has("Cargo.toml") && has("Cargo.lock"), "the workspace itself is left out");
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata answers");
    for package in &metadata.packages {
        let manifest = package.manifest_path.strip_prefix(&metadata.workspace_root);
        let manifest = manifest.expect("a member is in the workspace").as_str();
        // Cargo reads the manifests of all members, whichever it builds.
        assert!(has(manifest), "{manifest} is left out of the context");
    }
}

#[test]
fn everything_that_is_copied_comes_from_the_context_or_an_earlier_step() {
    let context = context();
    let made = BTreeSet::from([
        "/data",
        "/src/target/release/isthmus",
        "/etc/ssl/certs/ca-certificates.crt",
    ]);
    let copies = arguments("COPY");
    assert!(copies.len() > 2, "{copies:?}");
    for copy in copies {
        let paths: Vec<&String> = copy.iter().filter(|each| !each.starts_with("--")).collect();
        let [sources @ .., _] = paths.as_slice() else { panic!("COPY of nothing") };
        for source in sources.iter().map(|each| each.as_str()) {
            let copied = source.strip_prefix("/src/").unwrap_or(source);
            let in_context = source == "."
                || root().join(copied).exists()
                    && context.iter().any(|each| PathBuf::from(copied).starts_with(each));
            assert!(made.contains(source) || in_context, "{source} does not exist");
        }
    }
    let built = instructions().concat();
    for step in ["mkdir /data", "--package isthmus", "ca-certificates "] {
        assert!(built.contains(step), "nothing makes what is copied: {step}");
    }
}

#[test]
fn the_compiler_is_one_that_the_workspace_builds_with() {
    let images = arguments("FROM");
    let tag = images[0][0].strip_prefix("rust:").expect("built in the image of Rust");
    let version = tag.split('-').next().expect("a version");
    // The latest of a major version, or the one the workspace asks for.
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata answers");
    let asked = metadata.packages[0].rust_version.as_ref().expect("a rust-version").to_string();
    let is_enough = version == "1" || asked.starts_with(version);
    assert!(is_enough, "the image has Rust {version}, the workspace asks for {asked}");
    // What links against one release's C library may not run with an older one's.
    let release = tag.rsplit('-').next().expect("a release of Debian");
    assert!(images[1][0].starts_with(&format!("debian:{release}")), "{images:?}");
}
