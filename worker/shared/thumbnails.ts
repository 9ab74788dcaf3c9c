// What the service worker and the worker that makes a thumbnail say to each other. Both are of one
// build.

/** What a thumbnail is to be: pixels, and how the picture is made to fit. */
export interface Wanted {
  width: number;
  height: number;
  isCropped: boolean;
  isAnimated: boolean;
}

/** All that is needed for one. */
export interface Job {
  /** The module's bytes. */
  module: Uint8Array<ArrayBuffer>;
  file: Uint8Array<ArrayBuffer>;
  wanted: Wanted;
}

/** A thumbnail with width and height of its picture, or why there is none. */
export type Outcome = { bytes: Uint8Array<ArrayBuffer>; contentType: string; width: number; height: number } | 'unsupported' | 'not-an-image' | 'too-large';
