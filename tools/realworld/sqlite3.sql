-- SPDX-License-Identifier: Apache-2.0
-- For tools/realworld.py: fills, indexes, changes and checks a database. What it prints is the same on each run.
PRAGMA cache_size = -65536;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, weight REAL, data BLOB);
WITH RECURSIVE row(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM row WHERE n < 200000)
INSERT INTO item SELECT n, printf('item-%06d', (n * 7919) % 200003), (n * 31 % 1000) / 7.0, zeroblob(n % 97) FROM row;
CREATE UNIQUE INDEX item_name ON item (name);
CREATE INDEX item_weight ON item (weight, name);
SELECT count(*), min(name), max(name), sum(length(data)) FROM item;
SELECT weight, count(*), group_concat(id % 10, '') FROM item GROUP BY weight ORDER BY 2 DESC, 1 LIMIT 20;
SELECT a.name, b.name FROM item a JOIN item b ON b.name = printf('item-%06d', a.id) WHERE a.weight < 0.2 ORDER BY 1, 2 LIMIT 50;
UPDATE item SET name = name || hex(id), data = zeroblob(length(data) * 20) WHERE id % 3 = 0;
DELETE FROM item WHERE id % 5 = 0;
SELECT json_group_array(json_object('id', id, 'name', name)) FROM (SELECT * FROM item WHERE id < 2000 ORDER BY name);
SELECT length(group_concat(name, ',')) FROM (SELECT name FROM item ORDER BY weight, name);
VACUUM;
PRAGMA integrity_check;
