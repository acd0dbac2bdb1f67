//! The configuration that comes with the program is in order.

#[allow(dead_code)] // each test uses its part
mod program;

use std::path::Path;

use program::isthmus;

#[test]
fn every_example_passes_the_check() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../config"));
    let mut names = Vec::new();
    for entry in directory.read_dir().expect("listed") {
        let path = entry.expect("entry").path();
        let output = isthmus().arg("check").arg(&path).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        // What the installation puts there is not there when it is tested.
        let problems: Vec<&str> =
            said.lines().filter(|line| !line.contains("/etc/isthmus")).collect();
        assert!(problems.is_empty(), "{}: {said}", path.display());
        names.push(path.file_name().expect("a name").to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(
        names,
        ["cluster.toml", "development.toml", "isthmus.toml", "production.toml", "tls-edge.toml"]
    );
}

#[test]
fn the_backends_of_the_documentation_pass_the_check() {
    let page = include_str!("../../../docs/operations/authentication.md");
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("isthmus.toml");
    let blocks = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    // The others show a single key.
    let blocks: Vec<&str> = blocks.filter(|block| block.contains("[auth.")).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        std::fs::write(&path, block).expect("written");
        let mut check = isthmus();
        check.env("ISTHMUS__AUTH__LDAP__ACCOUNT_PASSWORD", "secret").arg("check").arg(&path);
        let output = check.output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_misspelt_key_of_any_section_is_refused_with_the_right_one() {
    let example = include_str!("../../../config/isthmus.toml");
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("isthmus.toml");
    let mut section = String::new();
    let mut tried = 0;
    for line in example.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        }
        let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let (header, right) = match section.as_str() {
            "" => (String::new(), key.to_owned()),
            name => (format!("[{name}]\n"), format!("{name}.{key}")),
        };
        std::fs::write(&path, format!("{header}{key}q = 1\n")).expect("written");
        let output = isthmus().arg("check").arg(&path).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_ne!(output.status.code(), Some(0), "{right}");
        assert!(
            said.contains(&format!("{right}q: unknown key; did you mean `{right}`?")),
            "{said}"
        );
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
}
