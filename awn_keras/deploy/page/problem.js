/** What the reader of the page can mend; the message says how. */
export class Problem extends Error {}

/** The text of whatever was thrown. */
export function textOf(error) {
  if (error instanceof Problem) return error.message;
  // A script that does not load is an event, and C++ throws numbers.
  return error instanceof Error ? error.message : String(error?.type ?? error);
}
