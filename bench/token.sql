-- A single-use token as a row: issued by one statement, redeemed by another, each committed by itself.
\set id random(1, 9223372036854775807)
INSERT INTO token (id, expires) VALUES (:id, now() + interval '5 minutes');
UPDATE token SET consumed = now() WHERE id = :id AND consumed IS NULL AND expires > now();
