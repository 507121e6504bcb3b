//! Which packages an image holds: keys of tools come and go with their versions, and an unknown key ends a run.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Asked of the image's own Python: the versions of everything that is installed where it looks. Nothing is imported.
pub const QUESTION: &str = "import importlib.metadata as m, json, sys\n\
    print(json.dumps({'python': '.'.join(map(str, sys.version_info[:3])), 'packages': \
    {(d.metadata['Name'] or '').lower().replace('_', '-'): d.version for d in m.distributions()}}))";

/// Programs that may be the image's Python, in this order.
pub const PYTHONS: [&str; 2] = ["python3", "python"];

/// Packages whose versions people are told.
const TOLD: [&str; 8] =
    ["transformers", "trl", "axolotl", "llamafactory", "torchtune", "unsloth", "peft", "torch"];

/// The packages of an image, by their names in lower case with dashes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Versions {
    /// Version of Python; empty where there is none.
    #[serde(default)]
    pub python: String,
    /// Version of each package.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
}

impl Versions {
    /// From what the image's Python printed. Images may print a banner first: the last line counts.
    #[must_use]
    pub fn parse(output: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(output);
        serde_json::from_str(text.trim_end().lines().next_back()?).ok()
    }

    /// Whether a package is there.
    #[must_use]
    pub fn has(&self, package: &str) -> bool {
        self.packages.contains_key(package)
    }

    /// Whether a package is there in this version or a later one. Of a version only the leading numbers count, so that
    /// a pre-release counts as its release.
    #[must_use]
    pub fn at_least(&self, package: &str, wanted: [u32; 2]) -> bool {
        self.packages.get(package).is_some_and(|version| numbers(version) >= wanted)
    }

    /// For people: the packages that matter here.
    #[must_use]
    pub fn told(&self) -> String {
        let found =
            TOLD.iter().filter_map(|name| Some(format!("{name} {}", self.packages.get(*name)?)));
        let found: Vec<_> = found.collect();
        if found.is_empty() { "no package that is known here".to_owned() } else { found.join(", ") }
    }
}

fn numbers(version: &str) -> [u32; 2] {
    let mut parts =
        version.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    [parts.next().unwrap_or(0), parts.next().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let of = |version: &str| Versions {
            packages: [("transformers".to_owned(), version.to_owned())].into(),
            ..Versions::default()
        };
        assert!(of("5.4.0").at_least("transformers", [5, 4]));
        assert!(of("5.23.0").at_least("transformers", [5, 4]), "numbers, not letters");
        assert!(of("5.4.0.dev0").at_least("transformers", [5, 4]));
        assert!(of("10.0").at_least("transformers", [5, 4]));
        assert!(!of("5.3.0").at_least("transformers", [5, 4]));
        assert!(!of("4.57.6").at_least("transformers", [5, 0]));
        assert!(!of("5.4.0").at_least("trl", [0, 1]), "absent");
    }

    #[test]
    fn what_python_printed_is_read_past_a_banner() {
        let printed =
            b"== CUDA ==\n{\"python\": \"3.13.5\", \"packages\": {\"trl\": \"1.16.0\"}}\n\n";
        let versions = Versions::parse(printed).expect("read");
        assert_eq!((versions.python.as_str(), versions.told().as_str()), ("3.13.5", "trl 1.16.0"));
        for nothing in [&b""[..], b"no", b"{\"python\": 3}", b"\xff"] {
            assert_eq!(Versions::parse(nothing), None);
        }
    }
}
