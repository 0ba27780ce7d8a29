/** `src/bin/enforce-quota.rs` in TypeScript: keeps each owner's files within `QUOTA_BYTES` (default 100 MiB). */

import { create } from "@bufbuild/protobuf";
import { func, row } from "oncue";

import { FileAcceptedSchema, FileInspectedSchema, FileRejectedSchema } from "./gen/files/file_pb.js";

const QUOTA = BigInt(process.env["QUOTA_BYTES"] ?? 100 << 20);

const owners = row("owners", { files: 0, bytes: 0n });

func(
  "enforce-quota",
  { on: FileInspectedSchema, row: owners, emits: [FileAcceptedSchema, FileRejectedSchema], key: "owner" },
  ({ file, owner: name, size, mediaType }, owner) => {
    const free = owner.bytes > QUOTA ? 0n : QUOTA - owner.bytes;
    if (size > free) {
      const reason = `${size} bytes, and ${free} of the owner's ${QUOTA} are free`;
      return create(FileRejectedSchema, { file, owner: name, reason });
    }
    owner.files += 1;
    owner.bytes += size;
    return create(FileAcceptedSchema, { file, owner: name, size, mediaType });
  },
);
