-- Version 3. An address has a local part; what is written differs from what compares in case and quotes alone.

UPDATE landfall.mailbox SET written = NULL
WHERE substring(written FROM '[^@]*$') <> substring(address FROM '[^@]*$')
    OR (address || written) ~ '^[ -~]*$' AND lower(translate(written, '"\', '')) <> translate(address, '"\', '');

ALTER TABLE landfall.mailbox
    ADD CONSTRAINT mailbox_written_domain
        CHECK (substring(written FROM '[^@]*$') = substring(address FROM '[^@]*$')),
    -- What is not ASCII has no lower case that every server agrees on.
    ADD CONSTRAINT mailbox_written_local_part
        CHECK ((address || written) !~ '^[ -~]*$'
            OR lower(translate(written, '"\', '')) = translate(address, '"\', ''));

ALTER TABLE landfall.address
    ADD CONSTRAINT address_local_part CHECK (address <> '@' || domain AND address !~ '[[:cntrl:]]');
