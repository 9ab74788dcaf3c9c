// The build puts wasm-bindgen's glue of the module that makes thumbnails under this name.

declare module 'ephapse:thumbnails-glue' {
  /** A small picture, and width and height of the large one. */
  export interface Made {
    readonly bytes: Uint8Array<ArrayBuffer>;
    readonly contentType: string;
    readonly width: number;
    readonly height: number;
  }

  export interface Glue {
    (options: { module_or_path: WebAssembly.Module }): Promise<unknown>;
    /** Throws a text that says why there is none; traps where its memory does not suffice. */
    thumbnail(file: Uint8Array, width: number, height: number, isCropped: boolean, isAnimated: boolean): Made;
  }

  /** Every call makes an independent instance. */
  export function createGlue(): Glue;
}
