//! What holds for each method.

/// What is known of the methods that may be called; from descriptor sets.
/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Methods {}

impl Methods {
    /// Learns every method of an encoded `google.protobuf.FileDescriptorSet`.
    ///
    /// # Errors
    /// When the bytes are not one.
    pub fn describe(&mut self, _descriptor_set: &[u8]) -> Result<(), crate::Error> {
        Ok(())
    }
}
