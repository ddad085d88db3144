/** Reads the ZIP at the end of a file: what is stored in it, uncompressed. */

const END = 0x06054b50;
const END_BYTES = 22;
const ENTRY = 0x02014b50;
const STORED = 0;

/**
 * @param {Uint8Array} bytes A file.
 * @return {Map<string, Uint8Array>} Contents by name; nothing if there is no ZIP.
 */
export function attached(bytes) {
  const found = new Map();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = findEnd(view);
  if (end < 0) return found;
  const text = new TextDecoder();
  const count = view.getUint16(end + 10, true);
  const size = view.getUint32(end + 12, true);
  // Offsets count from where the ZIP begins, which some writers take for the file's
  // beginning and some for the first entry's.
  const before = end - size - view.getUint32(end + 16, true);
  try {
    let at = end - size;
    for (let i = 0; i < count && view.getUint32(at, true) === ENTRY; i++) {
      const nameBytes = view.getUint16(at + 28, true);
      const name = text.decode(bytes.subarray(at + 46, at + 46 + nameBytes));
      const header = before + view.getUint32(at + 42, true);
      const start =
        header + 30 + view.getUint16(header + 26, true) + view.getUint16(header + 28, true);
      if (view.getUint16(at + 10, true) === STORED) {
        found.set(name, bytes.subarray(start, start + view.getUint32(at + 24, true)));
      }
      at += 46 + nameBytes + view.getUint16(at + 30, true) + view.getUint16(at + 32, true);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // it is no ZIP, after all
  }
  return found;
}

function findEnd(view) {
  const first = Math.max(0, view.byteLength - END_BYTES - 0xffff); // the longest comment
  for (let at = view.byteLength - END_BYTES; at >= first; at--) {
    if (view.getUint32(at, true) === END) return at;
  }
  return -1;
}
