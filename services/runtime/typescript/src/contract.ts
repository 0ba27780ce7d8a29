/** Event types, as the messages that were generated from the app's `.proto` files say them. */

import type { DescFile, DescMessage } from "@bufbuild/protobuf";
import { create, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

import { Reader } from "./wire.ts";

/** Extension of google.protobuf.MessageOptions that makes a message an event: (oncue.v1.event). */
const OPTION = 50401;

/** Type of the event that a message is, `shop.order.placed`; none for a message that is no event. */
export function eventType(schema: DescMessage): string | undefined {
  // Read by hand: whether the extension was generated as well is the app's affair.
  const unknown = schema.proto.options?.$unknown ?? [];
  for (const field of unknown) {
    if (field.no !== OPTION) continue;
    const option = new Reader(Buffer.from(field.data)).message();
    for (let tag = option.tag(); tag !== 0; tag = option.tag()) {
      if (tag >>> 3 === 1) return option.text() || undefined;
      option.skip(tag);
    }
  }
  return undefined;
}

/** Descriptor set of the files that these messages are from, and of all that those import. */
export function descriptors(schemas: readonly DescMessage[]): Uint8Array {
  const files = new Map<string, DescFile>();
  const add = (file: DescFile): void => {
    if (files.has(file.name)) return;
    for (const imported of file.dependencies) add(imported);
    files.set(file.name, file);
  };
  for (const schema of schemas) add(schema.file);
  const set = create(FileDescriptorSetSchema, { file: [...files.values()].map((file) => file.proto) });
  return toBinary(FileDescriptorSetSchema, set);
}
