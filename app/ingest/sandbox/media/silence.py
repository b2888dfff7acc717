"""AAC packets of silence, to fill a gap between packets that are copied.

An m4a can name a gap, but most decoders close it, and all that follows would be too early.
"""

from av.audio.codeccontext import AudioCodecContext

FRAME_SAMPLES = 1024
# One frame of AAC-LC (ISO/IEC 14496-3) with all spectral data zero; its bits tell no sample rate.
_FRAMES = {"mono": bytes.fromhex("01182007"), "stereo": bytes.fromhex("211004608c1c")}
_ADTS_HEADER_BYTES = 7


def silence_like(context: AudioCodecContext, packet: bytes) -> bytes | None:
    """Return a silent packet of `FRAME_SAMPLES` that fits beside the packet; None where none does.

    That is AAC-LC in mono or stereo, with an ADTS header where the packet has one.
    """
    frame = _FRAMES.get(context.layout.name)
    if frame is None or context.profile != "LC" or context.frame_size != FRAME_SAMPLES:
        return None
    has_header = packet[:1] == b"\xff" and packet[1:2] >= b"\xf0"
    return _header(packet, len(frame)) + frame if has_header else frame


def _header(packet: bytes, frame_bytes: int) -> bytes:
    """Return the packet's own ADTS header for another length, with no checksum behind it."""
    header = bytearray(packet[:_ADTS_HEADER_BYTES])
    length = _ADTS_HEADER_BYTES + frame_bytes
    header[1] |= 1
    header[3] = header[3] & 0xFC | length >> 11
    header[4] = length >> 3 & 0xFF
    header[5] = (length & 7) << 5 | 0x1F
    header[6] = 0xFC
    return bytes(header)
