use super::super::blocks::tests::{many, placed};
use super::*;
use crate::views::snapshot::sample;
use proptest::prelude::*;

fn options(width: usize) -> PictureOptions<'static> {
    let lines = PictureOptions::LINES;
    PictureOptions { width, color: false, scale: PictureScale::Log, filter: None, lines }
}

fn text(process: &Process, map: &PageMap, options: &PictureOptions<'_>) -> String {
    let mut out = Vec::new();
    render(process, map, options, &mut out).expect("memory takes everything");
    String::from_utf8(out).expect("text")
}

fn sample_text(options: &PictureOptions<'_>) -> String {
    let process = sample::postgres();
    text(&process, &placed(&process), options)
}

#[test]
fn eighty_columns() {
    insta::assert_snapshot!(sample_text(&options(80)));
}

#[test]
fn a_hundred_and_twenty_columns_in_proportion() {
    insta::assert_snapshot!(sample_text(&PictureOptions { scale: PictureScale::Linear, ..options(120) }));
}

#[test]
fn few_lines_with_colours() {
    let text = sample_text(&PictureOptions { color: true, lines: 8, ..options(80) });
    insta::assert_snapshot!(text.replace('\x1b', "␛"));
}

#[test]
fn without_a_look_at_pages_mixtures_are_even_and_that_is_said() {
    let process = sample::over_budget();
    insta::assert_snapshot!(text(&process, &PageMap::default(), &options(80)));
}

#[test]
fn who_has_no_address_space_has_no_picture() {
    let text = text(&sample::not_permitted(), &PageMap::default(), &options(80));
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.ends_with("its mappings could not be read\n"), "{text}");
}

#[test]
fn huge_pages_of_hugetlbfs_and_hostile_names() {
    let process = sample::hostile();
    insta::assert_snapshot!(text(&process, &placed(&process), &options(80)));
}

#[test]
fn sixty_thousand_mappings_are_a_page() {
    let (process, map) = many(60_000);
    let text = text(&process, &map, &options(80));
    assert!(text.lines().count() <= PictureOptions::LINES + 8, "{text}");
    assert!(text.contains("60,000 mappings"), "{text}");
}

#[test]
fn a_part_of_a_cell_is_never_nothing_nor_all() {
    let page = Layout::new(&options(80));
    let cell = |private: u64, shared, untouched| {
        let mut parts = Parts::only(Part::Private, private);
        parts[Part::Shared] = shared;
        parts[Part::Untouched] = untouched;
        page.cell(&parts).0
    };
    assert_eq!(cell(1, 0, 1 << 40), '▂');
    assert_eq!(cell(1 << 40, 0, 1), '█');
    assert_eq!((cell(4, 0, 4), cell(6, 0, 2)), ('▄', '▆'));
    assert_eq!((cell(1, 2, 0), cell(0, 1, 7), cell(0, 0, 1)), ('▒', '░', '·'));
    let colored = Layout::new(&PictureOptions { color: true, ..options(80) });
    let mut half = Parts::only(Part::Private, 1);
    half[Part::Swapped] = 1;
    assert_eq!(colored.cell(&half), ('▄', "31;43".to_owned()));
}

proptest! {
    #[test]
    fn lines_keep_to_the_width(width in 0_usize..300, lines in 0_usize..50, hostile in any::<bool>()) {
        let process = if hostile { sample::hostile() } else { sample::postgres() };
        let text = text(&process, &placed(&process), &PictureOptions { lines, ..options(width) });
        for line in text.lines() {
            prop_assert!(columns(line) <= width.clamp(*WIDTH.start(), *WIDTH.end()), "{line}");
            prop_assert!(!line.chars().any(|c| c.is_control() || crate::views::escape::deceives(c)), "{line:?}");
        }
    }
}
