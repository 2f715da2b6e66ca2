import { z } from 'zod';

/** Small schemas that every part of the configuration uses. */
export const NAME_PATTERN = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
export const SECRET_REFERENCE_PATTERN = /^(aws-sm:[^#\s]+(#[^\s]+)?|env:[A-Za-z_][A-Za-z0-9_]*|file:\S.*)$/;

export const name = z.string().regex(NAME_PATTERN, 'expected lower-case letters, digits and inner hyphens, at most 63');
export const secretReference = z
  .string()
  .regex(SECRET_REFERENCE_PATTERN, 'expected a reference, never the secret itself: aws-sm:<id>#<field>, env:<NAME> or file:<path>')
  .meta({ description: 'Where a secret is found: aws-sm:<id>#<field>, env:<NAME> or file:<path>. Never the secret itself.' });
export const argv = z.array(z.string()).min(1).meta({ description: 'A command as an argument vector; no shell is involved.' });
export const awsCredentials = z.strictObject({ accessKeyId: secretReference, secretAccessKey: secretReference, sessionToken: secretReference.optional() });
/** Of another account, or with other rights than the worker's own. */
export const assumeRole = z.strictObject({
  arn: z.string().regex(/^arn:aws[a-z-]*:iam::\d{12}:role\/[\w+=,.@/-]+$/, 'expected the ARN of a role: arn:aws:iam::<account>:role/<name>').meta({ description: 'The role. The worker needs sts:AssumeRole on it, and the role must trust the worker.' }),
  externalId: z.string().min(2).max(1224).optional().meta({ description: 'Where the trust policy of the role asks for one.' }),
});
/** The account that a role is of. */
export const accountOf = ({ arn }: { readonly arn: string }): string => arn.split(':')[4]!;
export const port = z.int().min(1).max(65535);
