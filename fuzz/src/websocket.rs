//! Any bytes as WebSocket frames, for either end.

use mockforge::net::receive_pieces;

use super::Source;

const FRAME_MAX: u64 = 1_000;

pub fn run(input: &[u8]) {
    let mut source = Source::new(input);
    let (is_server, step) = (source.flag(), usize::from(source.byte()));
    let wire = source.rest();
    let (data, out, error) = receive_pieces(wire, wire.len(), is_server, FRAME_MAX);
    assert!(data.len() <= wire.len());
    // A PONG is as long as its PING but for the mask, and so is the answer to a Close.
    assert!(out.len() <= 4 * wire.len() + 8, "{} bytes answer {}", out.len(), wire.len());
    for step in [step, 1] {
        let (data_of_pieces, out_of_pieces, error_of_pieces) =
            receive_pieces(wire, step, is_server, FRAME_MAX);
        assert_eq!((out_of_pieces, error_of_pieces), (out.clone(), error), "cut every {step} bytes");
        // Where it ends in an error, what came with the last piece is lost.
        assert!(data_of_pieces.starts_with(&data) && (error.is_some() || data == data_of_pieces));
    }
}
