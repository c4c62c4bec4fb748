// What a page does beyond reading. Nothing here is needed to use it.
import { localize, localizeFields } from "./times.js";
import { follow } from "./live.js";
import { enliven, sendOnce } from "./forms.js";

localize(document);
localizeFields(document);
enliven(document);
sendOnce();
follow((part) => {
  localize(part);
  enliven(part);
});
