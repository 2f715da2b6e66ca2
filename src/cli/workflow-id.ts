/** `orders` is short for `failover/orders`. */
export function workflowIdOf(execution: string): string {
  return execution.includes('/') ? execution : `failover/${execution}`;
}
