//! A readable format for inputs: sections, each with a line that begins with `#` and its name, and a
//! body until the next one.
//!
//! ```text
//! #message 3
//! {"v":1,"receivedAt":"2026-01-01T00:00:00Z","event":{…}}
//! #items 200|gladly-limited-data: true
//! [{"id":"i-1"}]
//! #destination 429|retry-after: 5
//! ```

/// More sections find nothing new.
const MAX_SECTIONS: usize = 48;

/// A section.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Section<'a> {
    /// The first word of its line.
    pub(crate) name: &'a str,
    /// The rest of the line.
    pub(crate) rest: &'a str,
    pub(crate) body: &'a [u8],
}

impl<'a> Section<'a> {
    /// Reads an input.
    pub(crate) fn all(input: &'a [u8]) -> Vec<Self> {
        let mut sections = Vec::new();
        let mut left = input;
        while let Some(section) = left.strip_prefix(b"#") {
            let end = find(section, b"\n#").unwrap_or(section.len());
            let (section, rest) = section.split_at(end);
            left = rest.strip_prefix(b"\n").unwrap_or_default();
            let (line, body) = match find(section, b"\n") {
                Some(end) => (&section[..end], &section[end + 1..]),
                None => (section, &[][..]),
            };
            let line = str::from_utf8(line).unwrap_or_default();
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            sections.push(Self { name, rest, body: body.strip_suffix(b"\n").unwrap_or(body) });
            if sections.len() == MAX_SECTIONS {
                break;
            }
        }
        sections
    }

    /// Its body as a text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body).into_owned()
    }

    /// Whether its line has this word.
    pub(crate) fn has(&self, word: &str) -> bool {
        self.rest.split(' ').any(|given| given == word)
    }
}

/// The body of the first section of this name.
pub(crate) fn text(sections: &[Section<'_>], name: &str) -> Option<String> {
    sections.iter().find(|section| section.name == name).map(Section::text)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
