/** `src/bin/track-file.rs` in TypeScript: follows each file through its flow, in any order of its events. */

import { func, maybe, row } from "oncue";

import {
  FileAcceptedSchema,
  FileInspectedSchema,
  FileRejectedSchema,
  FileRemovedSchema,
} from "./gen/files/file_pb.js";
import { ThumbnailMadeSchema } from "./gen/files/thumbnail_pb.js";
import { FileUploadedSchema } from "./gen/oncue/v1/file_pb.js";

/** Stages in their order: the furthest that was heard of is kept. */
const STAGES = ["uploaded", "inspected", "accepted", "rejected", "removed"];

interface Thumbnail {
  edge: number;
  width: number;
  height: number;
  media_type: string;
  object: string;
}

const files = row("files", {
  name: "",
  owner: "",
  size: 0n,
  sha256: "",
  media_type: "",
  width: 0,
  height: 0,
  status: "uploaded",
  reason: maybe(""),
  thumbnails: [] as Thumbnail[],
});

const on = [
  FileUploadedSchema,
  FileInspectedSchema,
  FileAcceptedSchema,
  FileRejectedSchema,
  FileRemovedSchema,
  ThumbnailMadeSchema,
] as const;

func("track-file", { on, row: files }, (event, file) => {
  let reached = "uploaded";
  switch (event.$typeName) {
    case "files.FileUploaded": {
      const { name, owner, size, sha256 } = event;
      Object.assign(file, { name, owner, size, sha256 });
      break;
    }
    case "files.FileInspected":
      file.media_type = event.mediaType;
      file.width = event.width;
      file.height = event.height;
      reached = "inspected";
      break;
    case "files.FileAccepted":
      reached = "accepted";
      break;
    case "files.FileRejected":
      file.reason = event.reason;
      reached = "rejected";
      break;
    case "files.FileRemoved":
      reached = "removed";
      break;
    case "files.ThumbnailMade": {
      const { edge, width, height, mediaType: media_type, object } = event;
      const others = file.thumbnails.filter((thumbnail) => thumbnail.edge !== edge);
      file.thumbnails = [...others, { edge, width, height, media_type, object }].sort((a, b) => a.edge - b.edge);
      reached = "accepted";
    }
  }
  file.status = STAGES[Math.max(STAGES.indexOf(file.status), STAGES.indexOf(reached))] ?? reached;
});
