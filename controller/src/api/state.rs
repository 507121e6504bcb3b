//! An export of the state on its way to whoever asked for it.

use std::fs::File;
use std::io::Read as _;

use hone_proto::error::{Reason, Refusal};
use hone_proto::wire::export_frame::Frame;
use hone_proto::wire::{ExportFrame, ExportSummary};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::streams::Boxed;
use crate::store;

/// Bytes of one frame: well below what a message may have.
const FRAME: usize = 64 << 10;

/// Frames that wait for a slow reader.
const AHEAD: usize = 4;

/// The summary, then the file.
pub(super) fn frames(summary: store::ExportSummary, mut file: File) -> Boxed<ExportFrame> {
    let (frames, reader) = mpsc::channel(AHEAD);
    let summary =
        ExportSummary { seq: summary.seq, records: summary.records, bytes: summary.bytes };
    tokio::task::spawn_blocking(move || {
        let say = |frame| frames.blocking_send(frame).is_ok();
        let mut going = say(Ok(ExportFrame { frame: Some(Frame::Summary(summary)) }));
        while going {
            let mut data = vec![0; FRAME];
            going = match file.read(&mut data) {
                Ok(0) => false,
                Ok(read) => {
                    data.truncate(read);
                    say(Ok(ExportFrame { frame: Some(Frame::Data(data)) }))
                }
                Err(error) => {
                    let text = format!("the export cannot be read: {error}");
                    say(Err(Status::from(Refusal::new(Reason::Internal, text))));
                    false
                }
            };
        }
    });
    Box::pin(ReceiverStream::new(reader))
}
