//! The SVG's text: elements, and what keeps foreign names from being read as such.

use std::fmt::Write as _;

/// Colours are those of Okabe and Ito: told apart whatever the eye, by their lightness as well; swap is hatched.
const STYLE: &str = "\
text{font:11px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre}
.g{fill:#ffffff}.t,.h{fill:#1f2328}.h{font-size:14px;font-weight:bold}.d{fill:#59636e}
.p{fill:#d55e00}.s{fill:#56b4e9}.w{fill:url(#swap)}.u{fill:#e3e6ea}.k{fill:url(#unknown)}
.l{fill:#009e73;fill-opacity:.4}.l:hover{fill-opacity:.85}
.w0{fill:#f0e442}.w1{fill:#8a7f00}.k0{fill:#e3e6ea}.k1{fill:#8c959f}
.o{fill:none;stroke:#8c959f;stroke-width:.5;pointer-events:all}.b:hover .o{stroke:#1f2328;stroke-width:2}
@media (prefers-color-scheme:dark){
.g{fill:#0d1117}.t,.h{fill:#e6edf3}.d{fill:#9198a1}
.p{fill:#e8743b}.u{fill:#2a313c}.k0{fill:#2a313c}
.o{stroke:#59636e}.b:hover .o{stroke:#e6edf3}}";

/// A document that grows.
pub(super) struct Xml(String);

impl Xml {
    pub(super) fn new(width: u32, height: u32, title: &str) -> Self {
        let hatch = |name: &str, class: &str| {
            format!(
                "<pattern id=\"{name}\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
                 patternTransform=\"rotate(45)\"><rect class=\"{class}0\" width=\"5\" height=\"5\"/>\
                 <rect class=\"{class}1\" width=\"1.5\" height=\"5\"/></pattern>"
            )
        };
        Self(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" \
             height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n\
             <style>{STYLE}</style>\n<defs>{}{}</defs>\n<rect class=\"g\" width=\"{width}\" height=\"{height}\"/>\n",
            escape(title),
            hatch("swap", "w"),
            hatch("unknown", "k"),
        ))
    }

    /// A group with a text that is shown under the pointer.
    pub(super) fn open(&mut self, class: &str, tooltip: &str) {
        let _ = writeln!(self.0, "<g class=\"{class}\"><title>{}</title>", escape(tooltip));
    }

    pub(super) fn close(&mut self) {
        self.0.push_str("</g>\n");
    }

    pub(super) fn rect(&mut self, class: &str, (x, y): (u32, u32), (width, height): (u32, u32)) {
        let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        let _ = writeln!(self.0, "<rect class=\"{class}\" {place}/>");
    }

    pub(super) fn path(&mut self, class: &str, path: &str) {
        let _ = writeln!(self.0, "<path class=\"{class}\" d=\"{path}\"/>");
    }

    pub(super) fn path_with_tooltip(&mut self, class: &str, path: &str, tooltip: &str) {
        let _ = writeln!(self.0, "<path class=\"{class}\" d=\"{path}\"><title>{}</title></path>", escape(tooltip));
    }

    /// `y` is that of the line that letters stand on.
    pub(super) fn text(&mut self, class: &str, x: u32, y: u32, anchor: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(self.0, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
    }

    /// Two texts of a class each, in one line.
    pub(super) fn label(&mut self, x: u32, y: u32, anchor: &str, first: (&str, &str), second: (&str, &str)) {
        let span = |(text, class): (&str, &str)| format!("<tspan class=\"{class}\">{}</tspan>", escape(text));
        let spans = format!("{}  {}", span(first), span(second));
        let _ = writeln!(self.0, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{spans}</text>");
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// Text that is neither markup nor a character that XML forbids. Control characters are escaped before.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push('\n'),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
