//! Whether a safetensors file has all its bytes: its header says where the last tensor ends.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::at::ReadAt;
use crate::trainer::{FileError, PlainFile};

/// Longest header that is read; a model with a hundred thousand tensors has about 12 MB.
const MAX_HEADER_LEN: u64 = 32 * 1024 * 1024;

/// Why a file is not a whole safetensors file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It ends within its header.
    #[error("it ends within its header")]
    Short,
    /// Its header claims a length that no writer uses.
    #[error("its header would be {0} bytes long")]
    HeaderLength(u64),
    /// Its header is not what the format says.
    #[error("its header is malformed")]
    Header,
    /// Its size is not what its header says.
    #[error("it has {have} bytes instead of {want}")]
    Size {
        /// The size by the header.
        want: u64,
        /// The size of the file.
        have: u64,
    },
}

/// Checks that header and size of `file` agree: `8 + header + end of the last tensor` is the size. The tensors are not
/// read.
///
/// # Errors
/// When the file cannot be read. What is wrong with it is the value.
pub fn is_whole(file: &PlainFile) -> Result<Result<(), Fault>, FileError> {
    check(file)
}

pub(super) fn check(file: &(impl ReadAt + ?Sized)) -> Result<Result<(), Fault>, FileError> {
    let Some(length) = file.exactly(0, 8)? else { return Ok(Err(Fault::Short)) };
    let length = length.iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
    let Some(bounded) = usize::try_from(length).ok().filter(|_| length <= MAX_HEADER_LEN) else {
        return Ok(Err(Fault::HeaderLength(length)));
    };
    let Some(header) = file.exactly(8, bounded)? else { return Ok(Err(Fault::Short)) };
    let Ok(Extent(end)) = serde_json::from_slice(&header) else { return Ok(Err(Fault::Header)) };
    let (want, have) = ((8 + length).saturating_add(end), file.size());
    Ok(if want == have { Ok(()) } else { Err(Fault::Size { want, have }) })
}

/// Where the last tensor ends. The header is walked, not kept.
struct Extent(u64);

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        #[derive(Deserialize)]
        struct Tensor {
            data_offsets: (u64, u64),
        }
        impl<'de> Visitor<'de> for Header {
            type Value = Extent;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Extent, A::Error> {
                let mut end = 0;
                while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let tensor: Tensor = map.next_value()?;
                    if tensor.data_offsets.0 > tensor.data_offsets.1 {
                        return Err(serde::de::Error::custom("a tensor ends before it begins"));
                    }
                    end = end.max(tensor.data_offsets.1);
                }
                Ok(Extent(end))
            }
        }
        deserializer.deserialize_map(Header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::fixtures;

    fn judged(bytes: &[u8]) -> Result<(), Fault> {
        check(bytes).expect("memory can be read")
    }

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    #[test]
    fn real_files_are_whole_and_no_other_length_of_them_is() {
        let bytes = fixtures::bytes("hf5-trl-lora/checkpoint-40/adapter_model.safetensors");
        assert_eq!(judged(&bytes), Ok(()));
        for len in 0..bytes.len() {
            assert!(judged(&bytes[..len]).is_err(), "cut at {len}");
        }
        let mut longer = bytes.clone();
        longer.push(0);
        let (want, have) = (bytes.len() as u64, longer.len() as u64);
        assert_eq!(judged(&longer), Err(Fault::Size { want, have }));
    }

    #[test]
    fn headers_that_lie_are_refused_without_reading_on() {
        let huge = u64::MAX.to_le_bytes();
        assert_eq!(judged(&huge), Err(Fault::HeaderLength(u64::MAX)));
        assert_eq!(judged(&file("[]", 0)), Err(Fault::Header));
        assert_eq!(judged(&file(r#"{"a":{"data_offsets":[4,2]}}"#, 4)), Err(Fault::Header));
        assert_eq!(judged(&file(r#"{"a":{"data_offsets":[-1,2]}}"#, 4)), Err(Fault::Header));
        let far = file(&format!(r#"{{"a":{{"data_offsets":[0,{}]}}}}"#, u64::MAX), 4);
        assert_eq!(judged(&far), Err(Fault::Size { want: u64::MAX, have: far.len() as u64 }));
        let noted = file(
            r#"{"__metadata__":{"format":"pt"},"a\u0020":{"dtype":"F32","shape":[1],"data_offsets":[0,4]} }"#,
            4,
        );
        assert_eq!(judged(&noted), Ok(()));
    }
}
