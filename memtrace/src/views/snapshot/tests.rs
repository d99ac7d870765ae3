use super::*;
use crate::cli::{By, Format, PictureScale, ShowOptions, Sort};
use crate::snapshot::{Process, Snapshot};
use crate::views::columns::columns;

fn show() -> ShowOptions {
    ShowOptions {
        format: Format::Text,
        by: None,
        sort: Sort::Rss,
        filter: None,
        top: Some(20),
        picture: false,
        scale: PictureScale::Log,
    }
}

fn by(by: By) -> ShowOptions {
    ShowOptions { by: Some(by), ..show() }
}

fn text(snapshot: &Snapshot, show: &ShowOptions, width: usize) -> String {
    let mut out = Vec::new();
    render(snapshot, show, Page { color: false, width }, &mut out).expect("a Vec takes everything");
    let text = String::from_utf8(out).expect("text");
    for line in text.lines() {
        assert!(columns(line) <= width, "{} columns: {line}", columns(line));
        assert!(!line.chars().any(|c| c.is_control() || crate::views::escape::deceives(c)), "{line:?}");
    }
    text
}

fn alone(process: Process) -> Snapshot {
    Snapshot { processes: vec![process], ..Snapshot::default() }
}

/// As on a narrow terminal and as on a wide one.
fn both(snapshot: &Snapshot, show: &ShowOptions) -> String {
    format!("{}\n════\n{}", text(snapshot, show, 80), text(snapshot, show, 120))
}

#[test]
fn a_database_backend() {
    insta::assert_snapshot!(both(&alone(sample::postgres()), &show()));
}

#[test]
fn not_permitted() {
    insta::assert_snapshot!(both(&alone(sample::not_permitted()), &show()));
}

#[test]
fn over_budget() {
    insta::assert_snapshot!(both(&alone(sample::over_budget()), &show()));
}

#[test]
fn a_zombie() {
    insta::assert_snapshot!(both(&alone(sample::zombie()), &show()));
}

#[test]
fn hostile_names() {
    insta::assert_snapshot!(both(&alone(sample::hostile()), &show()));
}

#[test]
fn a_group_by_physical_page() {
    insta::assert_snapshot!(both(&sample::group(true), &show()));
}

#[test]
fn a_group_without_a_look_at_pages() {
    insta::assert_snapshot!(both(&sample::group(false), &show()));
}

#[test]
fn tables() {
    let snapshot = alone(sample::postgres());
    let few = ShowOptions { top: Some(6), ..by(By::Mapping) };
    insta::assert_snapshot!("by_mapping", both(&snapshot, &few));
    insta::assert_snapshot!("by_file", both(&snapshot, &by(By::File)));
    insta::assert_snapshot!("by_permissions", both(&snapshot, &by(By::Permissions)));
    let filtered = ShowOptions { filter: Some("LIBC".into()), sort: Sort::Address, ..by(By::Mapping) };
    insta::assert_snapshot!("by_mapping_filtered", text(&snapshot, &filtered, 80));
}
