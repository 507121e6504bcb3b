//! How one record lies in the engine: a versioned, checksummed head, and numbered parts for what does not fit.
//!
//! ```text
//! 'm'              -> schema u16 | seq u64 | count u64 | sum u128 | restored u8 | crc32c u32      (one per store)
//! 'r' key          -> schema u16 | parts u8 | len u32 | crc32c u32 | the first 3,989 bytes
//! 'p' key part u8  -> the next 4,000 bytes, and so on                                             (part 1, 2, …)
//! ```
//! Integers are little-endian. The checksum covers key and value, so a value under a wrong key is noticed. `sum` adds
//! up a fingerprint of every head, which notices records that the engine lost without an error: that happens, see
//! `docs/adr/0002-durable-store.md`.

use super::Record;

/// Version of what is written. A reader refuses newer ones; an older one passes through [`upgrade`].
pub(super) const SCHEMA: u16 = 1;

/// Largest value handed to the engine. From 8 KiB on it spills values into files that it never syncs, and a power cut
/// then leaves a database that does not open; up to 4 KiB nothing was lost.
pub(super) const MAX_PART: usize = 4_000;

const HEAD: usize = 2 + 1 + 4 + 4;

/// Key of the store's own record.
pub(super) const META_KEY: &[u8] = b"m";

/// First byte of the key of every record's head.
pub(super) const RECORD: u8 = b'r';

const PART: u8 = b'p';

/// What is wrong with stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Not what was written.
    Broken(&'static str),
    /// Written by a newer release.
    TooNew(u16),
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    schema: u16,
    parts: u8,
    len: u32,
    crc: u32,
}

impl Head {
    fn of(key: &[u8], value: &[u8]) -> Self {
        let rest = value.len().saturating_sub(MAX_PART - HEAD);
        let parts = 1 + rest.div_ceil(MAX_PART);
        Self {
            schema: SCHEMA,
            parts: u8::try_from(parts).unwrap_or(u8::MAX),
            len: u32::try_from(value.len()).unwrap_or(u32::MAX),
            crc: checksum(key, value),
        }
    }

    /// Reads the head of a stored first part.
    pub(super) fn parse(stored: &[u8]) -> Result<Self, Flaw> {
        let mut at = Fields(stored);
        let schema = u16::from_le_bytes(at.take()?);
        if schema > SCHEMA {
            return Err(Flaw::TooNew(schema));
        }
        let [parts] = at.take()?;
        let len = u32::from_le_bytes(at.take()?);
        let crc = u32::from_le_bytes(at.take()?);
        Ok(Self { schema, parts, len, crc })
    }

    fn bytes(self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[..2].copy_from_slice(&self.schema.to_le_bytes());
        out[2] = self.parts;
        out[3..7].copy_from_slice(&self.len.to_le_bytes());
        out[7..].copy_from_slice(&self.crc.to_le_bytes());
        out
    }

    /// The numbers of the parts after the first.
    pub(super) fn further_parts(self) -> std::ops::Range<u8> {
        1..self.parts.max(1)
    }

    /// What this record adds to the store's sum.
    pub(super) fn fingerprint(self, key: &[u8]) -> u128 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bytes()).update(key);
        let mut out = [0; 16];
        hasher.finalize_xof().fill(&mut out);
        u128::from_le_bytes(out)
    }
}

/// The engine's key of a record's first part; also of a prefix of keys.
pub(super) fn head_key(key: &[u8]) -> Vec<u8> {
    [&[RECORD], key].concat()
}

/// The engine's key of a further part.
pub(super) fn part_key(key: &[u8], part: u8) -> Vec<u8> {
    [&[PART], key, &[part]].concat()
}

/// A record as the engine holds it: its head, and all its parts with their keys.
pub(super) fn encode(key: &[u8], value: &[u8]) -> (Head, Vec<Record>) {
    let head = Head::of(key, value);
    let (first, mut rest) = value.split_at(value.len().min(MAX_PART - HEAD));
    let mut parts = vec![(head_key(key), [&head.bytes(), first].concat())];
    for part in head.further_parts() {
        let (now, later) = rest.split_at(rest.len().min(MAX_PART));
        parts.push((part_key(key, part), now.to_vec()));
        rest = later;
    }
    (head, parts)
}

/// Puts a record together again from its first part and, in order, the others.
pub(super) fn decode<'a>(
    key: &[u8],
    stored: &[u8],
    further: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(Head, Vec<u8>), Flaw> {
    let head = Head::parse(stored)?;
    let mut value = stored[HEAD..].to_vec();
    for part in further {
        value.extend_from_slice(part);
    }
    if value.len() as u64 != u64::from(head.len) {
        return Err(Flaw::Broken("its length is not what was written"));
    }
    if checksum(key, &value) != head.crc {
        return Err(Flaw::Broken("its checksum does not match"));
    }
    Ok((head, upgrade(head.schema, value)?))
}

/// Brings a record of an older version to [`SCHEMA`]. There is no older version yet: each new one adds its step here
/// and a fixture to the tests, and compaction writes the result.
fn upgrade(from: u16, value: Vec<u8>) -> Result<Vec<u8>, Flaw> {
    if from == SCHEMA { Ok(value) } else { Err(Flaw::Broken("its version was never written")) }
}

/// CRC32C of a key and its value.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), value)
}

/// The store's own record: what all the others must add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Meta {
    /// Number of the last commit.
    pub(super) seq: u64,
    /// Number of records.
    pub(super) count: u64,
    /// Sum of the fingerprints of all records.
    pub(super) sum: u128,
    /// Filled from an export, and nothing committed since.
    pub(super) restored: bool,
}

impl Meta {
    /// Counts a record in.
    pub(super) fn add(&mut self, head: Head, key: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(head.fingerprint(key));
    }

    /// Counts a record out.
    pub(super) fn remove(&mut self, head: Head, key: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(head.fingerprint(key));
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.extend_from_slice(&SCHEMA.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.sum.to_le_bytes());
        out.push(u8::from(self.restored));
        out.extend_from_slice(&checksum(META_KEY, &out).to_le_bytes());
        out
    }

    pub(super) fn decode(stored: &[u8]) -> Result<Self, Flaw> {
        let mut at = Fields(stored);
        let schema = u16::from_le_bytes(at.take()?);
        if schema > SCHEMA {
            return Err(Flaw::TooNew(schema));
        }
        let meta = Self {
            seq: u64::from_le_bytes(at.take()?),
            count: u64::from_le_bytes(at.take()?),
            sum: u128::from_le_bytes(at.take()?),
            restored: at.take::<1>()? != [0],
        };
        let covered = stored.len() - at.0.len();
        if u32::from_le_bytes(at.take()?) != checksum(META_KEY, &stored[..covered]) {
            return Err(Flaw::Broken("its checksum does not match"));
        }
        Ok(meta)
    }
}

/// Takes fixed-size fields off the front of bytes.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (field, rest) =
            self.0.split_first_chunk::<N>().ok_or(Flaw::Broken("it is too short"))?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(len: usize) {
        let value: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let (head, parts) = encode(b"k", &value);
        assert!(parts.iter().all(|(_, part)| part.len() <= MAX_PART));
        assert_eq!(parts.len(), usize::from(head.parts));
        let further = parts[1..].iter().map(|(_, part)| part.as_slice());
        assert_eq!(decode(b"k", &parts[0].1, further), Ok((head, value)));
    }

    #[test]
    fn records_of_every_length_come_back() {
        for len in [0, 1, 3_988, 3_989, 3_990, 7_989, 7_990, super::super::MAX_RECORD] {
            round_trip(len);
        }
    }

    #[test]
    fn any_flipped_bit_of_a_record_is_noticed() {
        let (_, parts) = encode(b"key", &[7; 5_000]);
        for (index, (_, part)) in parts.iter().enumerate() {
            for at in (0..part.len()).step_by(if part.len() > 64 { 61 } else { 1 }).chain(0..12) {
                let mut bent = parts.clone();
                bent[index].1[at] ^= 1;
                let further = bent[1..].iter().map(|(_, part)| part.as_slice());
                // The number of parts alone is not covered: a wrong one names a part that is not there.
                assert!(decode(b"key", &bent[0].1, further).is_err() || (index, at) == (0, 2));
            }
        }
        assert!(decode(b"kez", &parts[0].1, [parts[1].1.as_slice()]).is_err());
    }

    #[test]
    fn a_newer_record_is_refused_by_its_version() {
        let (_, mut parts) = encode(b"key", b"value");
        parts[0].1[0] = 2;
        assert_eq!(decode(b"key", &parts[0].1, []), Err(Flaw::TooNew(2)));
    }

    #[test]
    fn meta_comes_back_and_refuses_damage() {
        let meta = Meta { seq: 9, count: 3, sum: 1 << 100, restored: true };
        let stored = meta.encode();
        assert_eq!(Meta::decode(&stored), Ok(meta));
        for at in 0..stored.len() {
            let mut bent = stored.clone();
            bent[at] ^= 4;
            assert!(Meta::decode(&bent).is_err());
            assert!(Meta::decode(&stored[..at]).is_err());
        }
    }
}
