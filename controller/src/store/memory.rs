//! The store's twin in memory: the same promises within one process, for tests and simulations.

use std::collections::BTreeMap;

use super::{Batch, Record, Store, StoreError, Write};

/// Records in a map. Cloning it is a copy of the state at that moment, which is what a simulated crash restarts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStore {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Store for MemoryStore {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        batch.check()?;
        for write in batch.writes() {
            match write {
                Write::Put(key, value) => {
                    self.records.insert(key.clone(), value.clone());
                }
                Write::Delete(key) => {
                    self.records.remove(key);
                }
            }
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>, StoreError> {
        let found =
            self.records.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix));
        Ok(found.map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
