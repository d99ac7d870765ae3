use super::super::blocks::tests::{many, placed};
use super::*;
use crate::views::snapshot::sample;
use roxmltree::{Document, Node};

fn svg(snapshot: &Snapshot, scale: PictureScale) -> String {
    let mut out = Vec::new();
    render(snapshot, scale, &mut out).expect("memory takes everything");
    String::from_utf8(out).expect("text")
}

fn with_pages(processes: Vec<Process>, group: Option<Group>) -> Snapshot {
    let page_maps = processes.iter().map(|process| Some(placed(process))).collect();
    Snapshot { processes, page_maps, group, ..Snapshot::default() }
}

fn two(physical: bool) -> Snapshot {
    let snapshot = sample::group(physical);
    with_pages(snapshot.processes.into_iter().take(2).collect(), snapshot.group)
}

fn number(node: Node<'_, '_>, name: &str) -> f64 {
    node.attribute(name).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} of {node:?}"))
}

fn of_class<'a, 'i>(root: Node<'a, 'i>, class: &'static str) -> impl Iterator<Item = Node<'a, 'i>> {
    root.descendants().filter(move |node| node.attribute("class") == Some(class))
}

fn content(node: Node<'_, '_>) -> String {
    node.descendants().filter(Node::is_text).filter_map(|node| node.text()).collect()
}

/// Left, top, right, bottom of each text, in a font as wide as the layout allows for.
fn boxes(document: &Document<'_>) -> Vec<(f64, f64, f64, f64, String)> {
    let texts = document.descendants().filter(|node| node.has_tag_name("text"));
    texts
        .map(|node| {
            let text = content(node);
            let (size, character) = if node.attribute("class") == Some("h") { (14.0, 9.0) } else { (11.0, 7.0) };
            let width = columns(&text) as f64 * character;
            let (x, y) = (number(node, "x"), number(node, "y"));
            let left = match node.attribute("text-anchor") {
                Some("end") => x - width,
                Some("middle") => x - width / 2.0,
                _ => x,
            };
            (left, y - size * 0.8, left + width, y + size * 0.2, text)
        })
        .collect()
}

fn assert_readable(document: &Document<'_>) {
    let (width, height) = (number(document.root_element(), "width"), number(document.root_element(), "height"));
    let boxes = boxes(document);
    assert!(!boxes.is_empty());
    for (at, a) in boxes.iter().enumerate() {
        assert!(a.0 >= 0.0 && a.1 >= 0.0 && a.2 <= width && a.3 <= height, "outside: {a:?}");
        for b in &boxes[..at] {
            assert!(a.0 >= b.2 || b.0 >= a.2 || a.1 >= b.3 || b.1 >= a.3, "{a:?} lies on {b:?}");
        }
    }
}

/// The area of a path of upright rectangles, as [`area`] draws them.
fn path_area(path: &str) -> f64 {
    let rectangles = path.split('M').filter(|rectangle| !rectangle.is_empty());
    let side = |rectangle: &str, letter: char| -> f64 {
        let rest = rectangle.split_once(letter).map_or("", |(_, rest)| rest);
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(rest.len());
        rest[..end].parse().unwrap_or_else(|_| panic!("{letter} of {rectangle}"))
    };
    rectangles.map(|rectangle| side(rectangle, 'h') * side(rectangle, 'v')).sum()
}

#[test]
fn texts_lie_beside_each_other() {
    for scale in [PictureScale::Log, PictureScale::Linear] {
        for snapshot in [
            with_pages(vec![sample::postgres()], None),
            with_pages(vec![sample::hostile()], None),
            two(true),
            two(false),
            sample::group(true),
            with_pages(vec![sample::over_budget(), many(3_000).0], None),
            Snapshot { processes: vec![sample::not_permitted()], ..Snapshot::default() },
            Snapshot::default(),
        ] {
            let text = svg(&snapshot, scale);
            assert_readable(&Document::parse(&text).expect("well-formed"));
        }
    }
}

#[test]
fn areas_are_amounts() {
    let process = sample::postgres();
    let snapshot = with_pages(vec![process.clone()], None);
    let map = placed(&process);
    let blocks = blocks::blocks(&process, &map, None, BLOCKS);
    let text = svg(&snapshot, PictureScale::Log);
    let document = Document::parse(&text).expect("well-formed");
    let drawn: Vec<Node<'_, '_>> = of_class(document.root(), "b").collect();
    assert_eq!(drawn.len(), blocks.len());
    for (node, block) in drawn.into_iter().zip(&blocks) {
        let (height, width) =
            of_class(node, "o").map(|o| (number(o, "height"), number(o, "width"))).next().expect("outline");
        for part in [Part::Private, Part::Shared, Part::Swapped] {
            let drawn: f64 = of_class(node, class(part)).filter_map(|path| path.attribute("d")).map(path_area).sum();
            let expected = block.parts[part] as f64 / block.size as f64;
            // Half a pixel of height for what would be too thin, and tenths for rounding.
            let allowed = 0.7 / height;
            let share = drawn / (width * height);
            assert!((share - expected).abs() <= allowed, "{} {part:?}: {share} for {expected}", block.label(40));
        }
    }
}

/// Height of a ribbon at its left end.
fn width(node: Node<'_, '_>) -> f64 {
    let d = node.attribute("d").unwrap_or_default();
    let top: f64 = d.split([' ', 'C']).nth(1).and_then(|y| y.parse().ok()).expect("top");
    let bottom: f64 = d.trim_end_matches('z').rsplit(' ').next().and_then(|y| y.parse().ok()).expect("bottom");
    bottom - top
}

#[test]
fn ribbons_are_as_wide_as_what_is_shared() {
    let mut snapshot = two(true);
    let physical = snapshot.group.as_mut().and_then(|group| group.physical.as_mut()).expect("sample");
    physical.links[1].shared = physical.links[0].shared / 4;
    let text = svg(&snapshot, PictureScale::Log);
    let document = Document::parse(&text).expect("well-formed");
    let ribbons: Vec<_> = of_class(document.root(), "l").filter(|node| node.has_tag_name("path")).collect();
    let mut widths: Vec<f64> = ribbons.iter().map(|&ribbon| width(ribbon)).collect();
    widths.sort_by(f64::total_cmp);
    assert!((widths[1] / widths[0] - 4.0).abs() < 0.2, "{widths:?}");
    assert!(ribbons.iter().any(|&ribbon| content(ribbon).contains("1.00 GiB in both")), "{text}");
}

#[test]
fn a_ribbon_is_no_higher_than_its_share_of_the_block() {
    let mut snapshot = two(true);
    let physical = snapshot.group.as_mut().and_then(|group| group.physical.as_mut()).expect("sample");
    physical.links.truncate(1);
    // A sixteenth of the segment's 1064 MiB.
    physical.links[0].shared = 1_064 << 16;
    for scale in [PictureScale::Log, PictureScale::Linear] {
        let text = svg(&snapshot, scale);
        let document = Document::parse(&text).expect("well-formed");
        let segment =
            of_class(document.root(), "b").find(|node| content(*node).contains("shared anonymous")).expect("drawn");
        let height = of_class(segment, "o").map(|outline| number(outline, "height")).next().expect("outline");
        let ribbon = of_class(document.root(), "l").find(|node| node.has_tag_name("path")).expect("a ribbon");
        assert!((width(ribbon) - height / 16.0).abs() <= 0.2, "{} of {height}", width(ribbon));
    }
}

#[test]
fn without_rights_there_are_no_ribbons_and_the_reason_is_told() {
    let text = svg(&two(false), PictureScale::Log);
    assert!(!text.contains("<path class=\"l\""), "{text}");
    assert!(text.contains("pagemap: not permitted, CAP_SYS_ADMIN is missing"), "{text}");
}

#[test]
fn foreign_names_stay_text() {
    let mut process = sample::hostile();
    process.comm = "</text><script>alert(1)</script>".into();
    for (mapping, name) in process.mappings.iter_mut().flatten().zip([
        &b"/tmp/]]>&amp;<!--\"'\xff\xfe\x00\x0b"[..],
        "\u{fffe}\u{ffff}\u{202e}]]>".as_bytes(),
        b"<![CDATA[",
    ]) {
        mapping.name = name.to_vec();
    }
    let text = svg(&with_pages(vec![process], None), PictureScale::Log);
    let document = Document::parse(&text).expect("well-formed");
    let known = ["svg", "title", "style", "defs", "pattern", "rect", "g", "path", "text", "tspan"];
    for node in document.descendants().filter(Node::is_element) {
        assert!(known.contains(&node.tag_name().name()), "{node:?}");
    }
    let tooltips: String = document.descendants().filter(|node| node.has_tag_name("title")).map(content).collect();
    assert!(tooltips.contains("/tmp/]]>&amp;<!--\"'\\xff\\xfe\\x00\\x0b"), "{tooltips}");
    assert!(tooltips.contains("\\u{fffe}\\u{ffff}\\u{202e}"), "{tooltips}");
    assert!(text.contains("&lt;/text&gt;"), "{text}");
}

#[test]
fn sixty_thousand_mappings_twice_stay_small() {
    let (first, map) = many(60_000);
    let second = Process { pid: 9, ..first.clone() };
    let links = (0..60_000).map(|at| crate::snapshot::Link { a: at, b: 59_999 - at, shared: 4096 }).collect();
    let physical = crate::snapshot::Physical { links, ..Default::default() };
    let group = Group { pids: vec![first.pid, second.pid], physical: Some(physical), ..Group::default() };
    let snapshot = Snapshot {
        processes: vec![first, second],
        page_maps: vec![Some(map.clone()), Some(map)],
        group: Some(group),
        ..Snapshot::default()
    };
    let text = svg(&snapshot, PictureScale::Log);
    assert!(text.len() < 2 << 20, "{}", text.len());
    assert_readable(&Document::parse(&text).expect("well-formed"));
}

/// As varied as 60,000 mappings can be: still a bounded number of blocks, cells and ribbons.
#[test]
fn the_most_varied_process_stays_small() {
    let (mut process, _) = many(20_000);
    for (at, mapping) in process.mappings.iter_mut().flatten().enumerate() {
        mapping.start = (at as u64) << 33;
        mapping.end = mapping.start + (1 << (20 + at % 12));
        mapping.name = vec![b'<'; 400 + at % 7];
    }
    let second = Process { pid: 9, ..process.clone() };
    let text = svg(&with_pages(vec![process, second], None), PictureScale::Log);
    assert!(text.len() < 2 << 20, "{}", text.len());
}
