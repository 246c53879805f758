//! A locked map from numbers to objects.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};

type Map<K, V> = HashMap<K, V, BuildHasherDefault<Scatter>>;

/// Maps handles and other numbers to objects.
pub(super) struct Table<K, V>(RwLock<Map<K, V>>);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Hash + Eq, V: Clone> Table<K, V> {
    pub(super) fn get(&self, key: K) -> Option<V> {
        self.read().get(&key).cloned()
    }

    /// `what` is named in the error if memory is short.
    pub(super) fn insert(&self, key: K, value: V, what: &'static str) -> Result<()> {
        self.write_with_space(what)?.insert(key, value);
        Ok(())
    }

    /// The value that is there already, else `value`.
    pub(super) fn get_or_insert(&self, key: K, value: V, what: &'static str) -> Result<V> {
        Ok(self.write_with_space(what)?.entry(key).or_insert(value).clone())
    }

    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    /// The caller drops the value, outside the lock.
    pub(super) fn remove(&self, key: K) -> Option<V> {
        self.write().remove(&key)
    }

    fn read(&self) -> RwLockReadGuard<'_, Map<K, V>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Map<K, V>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_with_space(&self, what: &'static str) -> Result<RwLockWriteGuard<'_, Map<K, V>>> {
        let mut map = self.write();
        map.try_reserve(1).map_err(|_| Error::OutOfMemory { what })?;
        Ok(map)
    }
}

/// Spread numbers that differ little over the upper bits (Fibonacci hashing).
pub(super) fn scatter(value: u64) -> u64 {
    value.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A hash for the library's own numbers, which nobody can choose so that they collide.
#[derive(Default)]
struct Scatter(u64);

impl Hasher for Scatter {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
    fn write_u64(&mut self, value: u64) {
        let scattered = scatter(self.0 ^ value);
        // The map uses the lower bits too.
        self.0 = scattered ^ scattered >> 32;
    }
}
