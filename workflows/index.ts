// Every workflow type there is; the names exported here are the public API (see src/model/api.ts).
