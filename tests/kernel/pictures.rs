//! The SVG of `memtrace snapshot --svg` in a real browser: what it draws where, pixel by pixel, against memory that this
//! test has touched, and whether its texts lie beside each other in the fonts that are there.

use anyhow::{Context, Result, bail, ensure};
use memtrace_tests::database::program;
use memtrace_tests::machine::TempDir;
use memtrace_tests::pages::page_size;
use memtrace_tests::runner::{self, Test};
use memtrace_tests::target::Target;
use memtrace_tests::tool::run_to_end;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

const TESTS: &[Test] = &[("pictures.browser", browser)];

fn main() -> ExitCode {
    runner::run(TESTS)
}

const LONG: Duration = Duration::from_secs(120);
const SIZE: usize = 48 << 20;

/// Of this test's memory a quarter is its own again, a quarter still shared with its child, and half untouched.
fn browser() -> Result<()> {
    let chromium = program(&["chromium"], "chromium")?;
    let dir = TempDir::new()?;
    let memory = Memory::map()?;
    memory.touch(0..SIZE / 2)?;
    let child = Child::fork()?;
    memory.touch(0..SIZE / 4)?;

    let svg = dir.path().join("picture.svg");
    let pids = [std::process::id(), child.0 as u32].map(|pid| pid.to_string());
    let svg_argument = svg.display().to_string();
    let (status, _, errors) = run_to_end(&["snapshot", "--pid", &pids[0], "--pid", &pids[1], "--svg", &svg_argument])?;
    ensure!(status.success(), "{status}\n{errors}");
    let seen = look(&chromium, &dir, &std::fs::read_to_string(&svg)?)?;

    ensure!(seen["error"].is_null(), "the browser does not understand it: {}", seen["error"]);
    ensure!(seen["overlaps"] == serde_json::json!([]), "texts on each other: {}", seen["overlaps"]);
    let range = format!("{:x}–{:x}", memory.start(), memory.start() + SIZE);
    let drawn: Vec<&Value> = seen["blocks"]
        .as_array()
        .context("blocks")?
        .iter()
        .filter(|block| block["title"].as_str().is_some_and(|title| title.contains(&range)))
        .collect();
    ensure!(drawn.len() == 2, "{range} is drawn {} times", drawn.len());
    for block in drawn {
        // What lies where, from left to right: the middle of each quarter.
        let quarters: Vec<&str> =
            block["quarters"].as_array().context("quarters")?.iter().filter_map(Value::as_str).collect();
        ensure!(quarters == ["p", "s", "u", "u"], "the quarters are {quarters:?}");
        for (part, expected) in [("p", 0.25), ("s", 0.25), ("u", 0.5)] {
            let share = block[part].as_f64().context("share")?;
            ensure!((share - expected).abs() < 0.05, "{part}: {share} of the area, {expected} of the memory");
        }
    }
    let shared = "12.0 MiB in both";
    let links = seen["links"].as_array().context("links")?;
    ensure!(
        links.iter().any(|link| link.as_str().is_some_and(|link| link.contains(shared))),
        "no ribbon says {shared}: {links:?}"
    );
    Ok(())
}

/// Anonymous memory between two guards, in small pages.
struct Memory(*mut u8);

impl Memory {
    fn map() -> Result<Self> {
        let guard = page_size();
        // SAFETY: a new mapping at an address that the kernel chooses, and changes within it.
        unsafe {
            let (anonymous, all) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE, SIZE + 2 * guard);
            let start = libc::mmap(std::ptr::null_mut(), all, libc::PROT_NONE, anonymous, -1, 0);
            ensure!(start != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
            let start = start.add(guard);
            ensure!(libc::mprotect(start, SIZE, libc::PROT_READ | libc::PROT_WRITE) == 0, "mprotect");
            ensure!(libc::madvise(start, SIZE, libc::MADV_NOHUGEPAGE) == 0, "madvise");
            Ok(Self(start.cast()))
        }
    }

    fn start(&self) -> usize {
        self.0 as usize
    }

    fn touch(&self, range: std::ops::Range<usize>) -> Result<()> {
        ensure!(range.end <= SIZE, "{range:?} is outside");
        for at in range.step_by(page_size()) {
            // SAFETY: inside the mapping, which is writable.
            unsafe { self.0.add(at).write_volatile(1) };
        }
        Ok(())
    }
}

/// A copy of this process that only waits.
struct Child(i32);

impl Child {
    fn fork() -> Result<Self> {
        // SAFETY: the child calls nothing but `pause`, and never returns.
        match unsafe { libc::fork() } {
            -1 => bail!("fork: {}", std::io::Error::last_os_error()),
            0 => loop {
                // SAFETY: as above. It goes with its parent's last reference: killed on drop.
                unsafe { libc::pause() };
            },
            pid => Ok(Self(pid)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: a signal to the child of this test, and its end.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// Draws it as an image, where neither scripts nor other files work, and tells what each block's pixels are: the
/// legend says which colour is which.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><body><script>
const source = SOURCE;
const parsed = new DOMParser().parseFromString(source, "image/svg+xml");
const error = parsed.querySelector("parsererror");
const svg = document.body.appendChild(document.importNode(parsed.documentElement, true));
const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
const overlaps = [];
texts.forEach(([a, p], i) => texts.slice(0, i).forEach(([b, q]) => {
  if (p.left < q.right && q.left < p.right && p.top + 1 < q.bottom && q.top + 1 < p.bottom) overlaps.push([a, b]);
}));
const image = new Image();
image.onload = () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const colour = (x, y) => context.getImageData(x, y, 1, 1).data.slice(0, 3).join();
  const number = (node, name) => Number(node.getAttribute(name));
  const place = node => ["x", "y", "width", "height"].map(name => number(node, name));
  const classes = {};
  for (const part of ["p", "s", "u"]) {
    const [x, y] = place(svg.querySelector(`:scope > rect.${part}`));
    classes[colour(x + 6, y + 6)] = part;
  }
  const blocks = [...svg.querySelectorAll(".b")].map(block => {
    const [x, y, width, height] = place(block.querySelector(".o"));
    const pixels = context.getImageData(x, y, width, height).data;
    const result = { title: block.querySelector("title").textContent, p: 0, s: 0, u: 0 };
    for (let i = 0; i < pixels.length; i += 4) result[classes[pixels.slice(i, i + 3).join()]] += 4 / pixels.length;
    const middle = quarter => classes[colour(x + Math.round(width * (2 * quarter + 1) / 8), y + Math.round(height / 2))];
    return { ...result, quarters: [0, 1, 2, 3].map(middle) };
  });
  const links = [...svg.querySelectorAll("path.l title")].map(title => title.textContent);
  const told = JSON.stringify({ error: error && error.textContent, overlaps, blocks, links });
  const plain = told.replace(/[<>&\u007f-\uffff]/g, c => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  document.body.replaceChildren(document.createTextNode("\nSEEN " + plain + "\n"));
};
image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(source);
</script>"#;

fn look(chromium: &Path, dir: &TempDir, svg: &str) -> Result<Value> {
    let page = dir.path().join("page.html");
    // As a string in a script, in which no `</script>` may be.
    let source = serde_json::to_string(svg)?.replace('<', "\\u003c");
    std::fs::write(&page, PAGE.replace("SOURCE", &source))?;
    let mut browser = Target::start(
        Command::new(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=60000"])
            .args(["--force-device-scale-factor=1", "--dump-dom"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("file://{}", page.display()))
            .env("HOME", dir.path())
            .stderr(std::process::Stdio::null()),
    )?;
    let line = browser.wait_for_line("SEEN ", LONG).context("the browser draws nothing")?;
    let told = line.split_once("SEEN ").map_or("", |(_, told)| told);
    Ok(serde_json::from_str(told)?)
}
