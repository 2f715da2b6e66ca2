import { DefaultFailureConverter } from '@temporalio/common';

/** Error text would otherwise stand in history in plain sight. Loaded by path, also inside the workflow bundle. */
export const failureConverter = new DefaultFailureConverter({ encodeCommonAttributes: true });
