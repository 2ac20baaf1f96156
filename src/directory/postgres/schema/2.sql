-- Version 2. The keys that were in `more` have columns, each with what may not stand beside it.

ALTER TABLE landfall.tenant
    ADD COLUMN messages_per_minute bigint CHECK (messages_per_minute BETWEEN 0 AND 1000000000);

ALTER TABLE landfall.inbound_connector
    ADD COLUMN trusted_headers boolean NOT NULL DEFAULT false,
    ADD COLUMN associated_domains text[] NOT NULL DEFAULT '{}',
    -- Rule 40.
    ADD COLUMN skip_last_ip boolean NOT NULL DEFAULT false,
    ADD COLUMN skip_ips text[] NOT NULL DEFAULT '{}',
    ADD COLUMN users text[] NOT NULL DEFAULT '{}';

ALTER TABLE landfall.outbound_connector
    ADD COLUMN type text NOT NULL DEFAULT 'on-premises' CHECK (type IN ('on-premises', 'partner')),
    ADD COLUMN all_accepted_domains boolean NOT NULL DEFAULT false,
    ADD COLUMN route_all_via_on_premises boolean NOT NULL DEFAULT false,
    ADD COLUMN returns_by text COLLATE "C",
    -- The path of a file that every node has.
    ADD COLUMN ca text CHECK (btrim(ca) <> ''),
    ALTER COLUMN recipient_domains SET DEFAULT '{}',
    DROP CONSTRAINT outbound_connector_recipient_domains_check;

UPDATE landfall.tenant SET
    messages_per_minute = (more ->> 'messages_per_minute')::bigint,
    more = more - 'messages_per_minute'
WHERE more ? 'messages_per_minute';

CREATE FUNCTION landfall.texts_of(list jsonb) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(item ORDER BY place), '{}')
    FROM jsonb_array_elements_text(list) WITH ORDINALITY AS items (item, place)
$$;

UPDATE landfall.inbound_connector SET
    trusted_headers = coalesce((more ->> 'trusted_headers')::boolean, false),
    associated_domains = landfall.texts_of(more -> 'associated_domains'),
    skip_last_ip = coalesce((more ->> 'skip_last_ip')::boolean, false),
    skip_ips = landfall.texts_of(more -> 'skip_ips'),
    users = landfall.texts_of(more -> 'users'),
    more = more - '{trusted_headers, associated_domains, skip_last_ip, skip_ips, users}'::text[]
WHERE more ?| '{trusted_headers, associated_domains, skip_last_ip, skip_ips, users}'::text[];

UPDATE landfall.outbound_connector SET
    type = coalesce(more ->> 'type', 'on-premises'),
    all_accepted_domains = coalesce((more ->> 'all_accepted_domains')::boolean, false),
    route_all_via_on_premises = coalesce((more ->> 'route_all_via_on_premises')::boolean, false),
    returns_by = more ->> 'returns_by',
    ca = more ->> 'ca',
    more = more - '{type, all_accepted_domains, route_all_via_on_premises, returns_by, ca}'::text[]
WHERE more ?| '{type, all_accepted_domains, route_all_via_on_premises, returns_by, ca}'::text[];

DROP FUNCTION landfall.texts_of;

ALTER TABLE landfall.inbound_connector
    ADD CHECK (type = 'on-premises' OR NOT trusted_headers AND cardinality(associated_domains) = 0),
    ADD CHECK (NOT trusted_headers OR cardinality(certificate_names) > 0),
    ADD CHECK (NOT skip_last_ip OR cardinality(skip_ips) = 0),
    ADD CHECK (cardinality(users) = 0 OR skip_last_ip OR cardinality(skip_ips) > 0);

ALTER TABLE landfall.outbound_connector
    ADD CHECK (cardinality(recipient_domains) > 0 OR all_accepted_domains OR route_all_via_on_premises),
    ADD CHECK (NOT route_all_via_on_premises OR type = 'on-premises'),
    ADD CHECK (ca IS NULL OR tls = 'verify'),
    ADD FOREIGN KEY (tenant, returns_by) REFERENCES landfall.inbound_connector (tenant, name) ON UPDATE CASCADE
        DEFERRABLE INITIALLY DEFERRED;
