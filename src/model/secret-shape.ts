/** Text patterns that are secrets wherever they stand, with what to call them. */
const SECRET_SHAPES: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----/, 'a private key'],
  [/AGE-SECRET-KEY-1/i, 'an age identity'],
  [/\b(AKIA|ASIA)[0-9A-Z]{16}\b/, 'an AWS access key id'],
  [/\bxox[abeoprs]-[\w-]{10,}/, 'a Slack token'],
  [/hooks\.slack\.com\/(services|workflows|triggers)\//i, 'a Slack webhook URL'],
  [/\bgh[opsur]_\w{20,}/, 'a GitHub token'],
  [/\beyJ[\w-]{10,}\.[\w-]{10,}\./, 'a JSON web token'],
  [/[a-z][a-z0-9+.-]*:\/\/[^\s/:@$]*:[^\s/@${}]+@/i, 'a password in a URL'],
  [/(^|[\s'"])-{0,2}(pgpassword|password|passwd|secret|token|apikey|api-key|secret-access-key|aws_secret_access_key)=(?!\$|env:|file:|aws-sm:)\S+/i, 'a password in a text'],
];

/** What kind of secret a text contains by its shape; undefined when none is seen. */
export function secretShape(text: string): string | undefined {
  return SECRET_SHAPES.find(([pattern]) => pattern.test(text))?.[1];
}
