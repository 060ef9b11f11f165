//! Lookup tables for sets of bytes.

/// A table that says for each byte value whether `members` contains it.
#[expect(
    clippy::indexing_slicing,
    reason = "in range, and only used in constants"
)]
pub(crate) const fn byte_set(members: &[u8]) -> [bool; 256] {
    let mut set = [false; 256];
    let mut index = 0;
    while index < members.len() {
        set[members[index] as usize] = true;
        index += 1;
    }
    set
}
