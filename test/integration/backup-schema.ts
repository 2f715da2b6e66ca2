/** What real schemas have, and what breaks naive tools: quoting, inheritance, types, partitions, policies, odd values. */
export const FOREIGN_SCHEMA = String.raw`
create schema "Weird ""Schema""; é";
create schema audit;
create extension if not exists pg_trgm with schema audit;
create type mood as enum ('sad', 'ok', 'very "happy"');
create domain positive as int check (value > 0);
create type address as (street text, number int);
create table "Weird ""Schema""; é"."Mixed Case $1;" ("ID" int primary key, "select" text, t text, holdfast_row text, "naïve ü" jsonb, home address, moods mood[], p positive);
insert into "Weird ""Schema""; é"."Mixed Case $1;"
  select i, 'row ' || i, case when i % 7 = 0 then null else repeat('x', i % 50) end, 'h', jsonb_build_object('i', i, 'é', array[1,2,i]), row('street ' || i, i)::address, array['sad','ok']::mood[], i from generate_series(1, 2000) i;
create table no_columns ();
insert into no_columns default values;
insert into no_columns default values;
create table parent (id int, note text);
create table child (extra numeric) inherits (parent);
insert into parent values (1, 'parent only');
insert into child values (2, 'child row', 'NaN'), (3, 'inf', 1e300), (4, null, '-0.0');
create table numbers (f float8, r real, n numeric, d date, ts timestamptz, iv interval, b bytea, u uuid, m money);
insert into numbers values ('NaN', 'infinity', 'NaN', 'infinity', '-infinity', '1 year 2 mons -3 days 04:05:06.789', '\x00ff10', '00000000-0000-0000-0000-000000000001', 12.34), (0.1, 1e-30, 0.1, '4713-01-01 BC', '2024-02-29 23:59:59.999999+14', '-1 sec', '', null, -0.01), ('-0', '-0', 123456789012345678901234567890.123, 'epoch', 'epoch', '0', null, null, null);
create table orders (id bigint generated always as identity, day date not null, status varchar(10) not null default 'new', total numeric(12,2), tax numeric generated always as (total * 0.1) stored,
  constraint status_known check (status in ('new', 'paid', 'it''s, ok')), primary key (id, day)) partition by range (day);
create table orders_2025 partition of orders for values from ('2025-01-01') to ('2026-01-01');
create table orders_rest partition of orders default;
insert into orders (day, status, total) select date '2024-12-01' + i, (array['new','paid','it''s, ok'])[1 + i % 3], i * 1.5 from generate_series(1, 3000) i;
create index orders_by_status on orders (status) where status in ('new', 'paid');
create table bookings (room int, during tstzrange, exclude using gist (during with &&));
insert into bookings values (1, '[2025-01-01, 2025-01-02)');
create unlogged table cache (k text primary key, v text);
insert into cache select 'k' || i, md5(i::text) from generate_series(1, 500) i;
create table dropped (a int, b text, c int default 7);
insert into dropped values (1, 'gone', 2);
alter table dropped drop column b;
alter table dropped add column d text default 'späť';
insert into dropped values (2, 3, 'x');
create table wide (id int, body text);
insert into wide values (1, repeat('wide ', 400000)), (2, null), (3, '');
create sequence standalone start 1000 increment 7;
select nextval('standalone'), nextval('standalone');
create sequence "Never Called";
create view paid as select * from orders where status in ('paid', 'it''s, ok');
create materialized view per_day as select day, count(*) as n, sum(total) as total from orders group by day;
create unique index per_day_day on per_day (day);
create materialized view unpopulated as select 1 as x with no data;
create function audit.stamp() returns trigger language plpgsql as $$ begin
-- Name: not_an_object; Type: but a comment; in the body
new.note := coalesce(new.note, 'stamped'); return new; end $$;
create trigger stamp before insert on parent for each row execute function audit.stamp();
create rule no_delete as on delete to dropped do instead nothing;
alter table bookings enable row level security;
alter table bookings force row level security;
create policy everyone on bookings for select using (room > 0);
comment on table orders is 'orders; with a -- comment and ''quotes''';
comment on column orders.status is E'two\nlines';
create statistics order_stats on day, status from orders;
select lo_from_bytea(70001, convert_to(repeat('large object one ', 60000), 'UTF8'));
select lo_from_bytea(70002, '\xdeadbeef');
select lo_create(70003);
select lo_put(70003, 1000000, '\x01');
comment on large object 70002 is 'four bytes';
`;

/** Roles are of the whole server: a suffix keeps test files apart. */
export function rolesFor(suffix: string): { create: string; drop: string; reader: string; writer: string } {
  const reader = `Reader "${suffix}"`;
  const writer = `writer_${suffix}`;
  const quoted = (name: string): string => `"${name.replaceAll('"', '""')}"`;
  return {
    reader,
    writer,
    create: `
      create role ${quoted(reader)} nologin;
      create role ${quoted(writer)} login password 'writer-secret-${suffix}' in role ${quoted(reader)};
      alter role ${quoted(writer)} set statement_timeout = '5min';
      grant usage on schema audit, public to ${quoted(reader)};
      grant select on all tables in schema public to ${quoted(reader)};
      grant insert, update on orders to ${quoted(writer)} with grant option;
      alter table wide owner to ${quoted(writer)};
      alter default privileges in schema public grant select on tables to ${quoted(reader)};
      grant select on large object 70001 to ${quoted(reader)};`,
    drop: `drop owned by ${quoted(reader)}, ${quoted(writer)}; drop role ${quoted(writer)}; drop role ${quoted(reader)}`,
  };
}
