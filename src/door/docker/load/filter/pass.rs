//! Members that pass unchanged.

use bytes::{Bytes, BytesMut};

use super::{Filter, LAYOUT_BYTES, MemberEnd};
use crate::door::docker::load::error::FilterError;
use crate::door::docker::load::guard::{Guard, unclear};
use crate::door::docker::load::layout::is_layout;
use crate::door::docker::load::member::Member;

impl Filter<'_> {
    pub(super) async fn pass(&mut self, mut size: u64, padding: usize) -> Result<MemberEnd, FilterError> {
        while size > 0 {
            match self.input.next(size, self.output).await? {
                Some(bytes) => {
                    size -= bytes.len() as u64;
                    self.output.send(bytes).await?;
                }
                None => return Ok(MemberEnd::Cut),
            }
        }
        let mut missing = padding;
        while missing > 0 {
            match self.input.next(missing as u64, self.output).await? {
                Some(bytes) => {
                    missing -= bytes.len();
                    self.output.send(bytes).await?;
                }
                None => return Ok(MemberEnd::Unpadded(missing)),
            }
        }
        Ok(MemberEnd::Here)
    }

    /// Passes a file that names images, after the guard has checked it.
    pub(super) async fn pass_names(
        &mut self,
        name: &[u8],
        member: &Member,
        head: Bytes,
    ) -> Result<MemberEnd, FilterError> {
        if member.size > Guard::limit() {
            return Err(unclear(name, format!("it has more than {} bytes", Guard::limit())).into());
        }
        let mut text = BytesMut::new();
        // At most the limit.
        let is_whole = self.input.fill(&mut text, member.size as usize, self.output).await?;
        if let Some(guard) = self.guard.as_mut().filter(|_| is_whole) {
            guard.check_document(name, &text)?;
        }
        self.output.head(head, member.size).await?;
        self.output.send(text.freeze()).await?;
        if is_whole { self.pass(0, member.padding()).await } else { Ok(MemberEnd::Cut) }
    }

    /// Passes a file named `oci-layout`; the last one in an archive decides.
    pub(super) async fn pass_layout(&mut self, member: &Member) -> Result<MemberEnd, FilterError> {
        self.is_layout = false;
        if member.size > LAYOUT_BYTES {
            return self.pass(member.size, member.padding()).await;
        }
        let mut text = BytesMut::new();
        // At most LAYOUT_BYTES.
        let is_whole = self.input.fill(&mut text, member.size as usize, self.output).await?;
        self.is_layout = is_whole && member.plain && is_layout(&text);
        self.output.send(text.freeze()).await?;
        if is_whole { self.pass(0, member.padding()).await } else { Ok(MemberEnd::Cut) }
    }
}
