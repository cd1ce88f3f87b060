-- catalog.duckdb: an index over ingest/, labels/, plan/, ledger/ and runs/ of a store. Never the only copy of anything: delete it
-- and `hela-store catalog rebuild` makes it again. A change in this file makes every catalog stale; the next use rebuilds it.

CREATE TABLE frames (
    frame VARCHAR, sequence VARCHAR, name VARCHAR, time BIGINT, height BIGINT, width BIGINT, dtype VARCHAR,
    "group" VARCHAR, "row" BIGINT, sha256 VARCHAR, has_label BOOLEAN, partial BOOLEAN, label_origin VARCHAR,
    pixel_size_um DOUBLE, is_blank BOOLEAN
);
COMMENT ON TABLE frames IS 'One row an image of the data set, as acquired (ingest/frames-*.parquet).';
COMMENT ON COLUMN frames.frame IS 'Id, "<sequence>/<name>", e.g. "01/t012".';
COMMENT ON COLUMN frames.sequence IS 'Name of the sequence.';
COMMENT ON COLUMN frames.name IS 'Name within the sequence.';
COMMENT ON COLUMN frames.time IS 'Number in the frame''s name in data of the Cell Tracking Challenge; else counted from 0 in the order of the names, and on for frames that come later. Unique in a sequence.';
COMMENT ON COLUMN frames.height IS 'Rows, px.';
COMMENT ON COLUMN frames.width IS 'Columns, px.';
COMMENT ON COLUMN frames.dtype IS 'Pixel type as acquired, e.g. "uint16".';
COMMENT ON COLUMN frames."group" IS 'Array group under arrays.zarr/frames/.';
COMMENT ON COLUMN frames."row" IS 'Index in that group.';
COMMENT ON COLUMN frames.sha256 IS 'The sha256 of the image bytes (little-endian), shape and dtype.';
COMMENT ON COLUMN frames.has_label IS 'False: the frame can be embedded and predicted, not scored; at the latest version of the labels.';
COMMENT ON COLUMN frames.partial IS 'True where only some of the cells are labelled (gold truth, or a person who is not done).';
COMMENT ON COLUMN frames.label_origin IS 'ST, GT, GT+ST, masks, synthetic or, where people drew all of them, edited; empty without labels.';
COMMENT ON COLUMN frames.pixel_size_um IS 'Edge length of a pixel, um; NULL where unknown.';
COMMENT ON COLUMN frames.is_blank IS 'True for a constant image.';

CREATE TABLE cell_versions (
    cell VARCHAR, frame VARCHAR, label BIGINT, area BIGINT, area_um2 DOUBLE, diameter DOUBLE,
    x0 BIGINT, y0 BIGINT, x1 BIGINT, y1 BIGINT, cx DOUBLE, cy DOUBLE, eccentricity DOUBLE,
    touches_neighbour BOOLEAN, touches_border BOOLEAN, mean_intensity DOUBLE, round_trip_iou DOUBLE,
    since BIGINT, until BIGINT
);
COMMENT ON TABLE cell_versions IS
    'Every cell as it was at some version of the labels (ingest/cells-*.parquet, labels/*.jsonl).';
COMMENT ON COLUMN cell_versions.cell IS 'Id, "<frame>#<label>", e.g. "01/t012#17".';
COMMENT ON COLUMN cell_versions.frame IS 'frames.frame.';
COMMENT ON COLUMN cell_versions.label IS 'Value in the label image.';
COMMENT ON COLUMN cell_versions.area IS 'px.';
COMMENT ON COLUMN cell_versions.area_um2 IS 'um^2; NULL where the pixel size is unknown.';
COMMENT ON COLUMN cell_versions.diameter IS 'Diameter of the disc with the same area, in pixels.';
COMMENT ON COLUMN cell_versions.x0 IS 'Left edge of the bounding box, px, frame, inclusive.';
COMMENT ON COLUMN cell_versions.y0 IS 'Upper edge of the bounding box, px, frame, inclusive.';
COMMENT ON COLUMN cell_versions.x1 IS 'Right edge of the bounding box, px, frame, exclusive.';
COMMENT ON COLUMN cell_versions.y1 IS 'Lower edge of the bounding box, px, frame, exclusive.';
COMMENT ON COLUMN cell_versions.cx IS 'x of the centroid, px, frame.';
COMMENT ON COLUMN cell_versions.cy IS 'y of the centroid, px, frame.';
COMMENT ON COLUMN cell_versions.eccentricity IS 'Eccentricity of the ellipse with the same second moments, 0 (disc) to 1.';
COMMENT ON COLUMN cell_versions.touches_neighbour IS 'True where a pixel of another cell is adjacent.';
COMMENT ON COLUMN cell_versions.touches_border IS 'True where the cell reaches the border of the frame.';
COMMENT ON COLUMN cell_versions.mean_intensity IS 'Mean count above the black level (offset) of the recipe.';
COMMENT ON COLUMN cell_versions.round_trip_iou IS 'IoU of the true mask with itself after the 256x256 grid of its tile: a floor, not a bound.';
COMMENT ON COLUMN cell_versions.since IS 'First version of the labels with the cell like this; 0 as ingested.';
COMMENT ON COLUMN cell_versions.until IS 'First version of the labels in which the cell is another or no more; NULL for none.';

CREATE VIEW cells AS
    SELECT
        cell, frame, label, area, area_um2, diameter, x0, y0, x1, y1, cx, cy, eccentricity, touches_neighbour,
        touches_border, mean_intensity, round_trip_iou
    FROM cell_versions WHERE until IS NULL;
COMMENT ON VIEW cells IS 'One row a labelled instance in a frame, at the latest version of the labels.';
COMMENT ON COLUMN cells.cell IS 'Id, "<frame>#<label>", e.g. "01/t012#17".';
COMMENT ON COLUMN cells.frame IS 'frames.frame.';
COMMENT ON COLUMN cells.label IS 'Value in the label image.';
COMMENT ON COLUMN cells.area IS 'px.';
COMMENT ON COLUMN cells.area_um2 IS 'um^2; NULL where the pixel size is unknown.';
COMMENT ON COLUMN cells.diameter IS 'Diameter of the disc with the same area, in pixels.';
COMMENT ON COLUMN cells.x0 IS 'Left edge of the bounding box, px, frame, inclusive.';
COMMENT ON COLUMN cells.y0 IS 'Upper edge of the bounding box, px, frame, inclusive.';
COMMENT ON COLUMN cells.x1 IS 'Right edge of the bounding box, px, frame, exclusive.';
COMMENT ON COLUMN cells.y1 IS 'Lower edge of the bounding box, px, frame, exclusive.';
COMMENT ON COLUMN cells.cx IS 'x of the centroid, px, frame.';
COMMENT ON COLUMN cells.cy IS 'y of the centroid, px, frame.';
COMMENT ON COLUMN cells.eccentricity IS 'Eccentricity of the ellipse with the same second moments, 0 (disc) to 1.';
COMMENT ON COLUMN cells.touches_neighbour IS 'True where a pixel of another cell is adjacent.';
COMMENT ON COLUMN cells.touches_border IS 'True where the cell reaches the border of the frame.';
COMMENT ON COLUMN cells.mean_intensity IS 'Mean count above the black level (offset) of the recipe.';
COMMENT ON COLUMN cells.round_trip_iou IS 'IoU of the true mask with itself after the 256x256 grid of its tile: a floor, not a bound.';

CREATE TABLE label_events (
    version BIGINT, number BIGINT, kind VARCHAR, frame VARCHAR, cells BIGINT[], masks VARCHAR[], clicks DOUBLE[],
    click_labels BIGINT[], boxes DOUBLE[], seconds DOUBLE, who VARCHAR, "when" TIMESTAMP, reason VARCHAR, sum VARCHAR,
    target BIGINT
);
COMMENT ON TABLE label_events IS 'Every change of labels since they were ingested (labels/*.jsonl).';
COMMENT ON COLUMN label_events.version IS 'Version of the labels that it is part of, from 1.';
COMMENT ON COLUMN label_events.number IS 'Its place in that version, from 0.';
COMMENT ON COLUMN label_events.kind IS 'add, replace, erase, split, merge, complete, undo or redo.';
COMMENT ON COLUMN label_events.frame IS 'frames.frame.';
COMMENT ON COLUMN label_events.cells IS 'Labels of the cells that it concerns; cells.label.';
COMMENT ON COLUMN label_events.masks IS 'Mask of each cell in frame coordinates, COCO compressed run lengths.';
COMMENT ON COLUMN label_events.clicks IS 'x, y, x, y, ... px, frame.';
COMMENT ON COLUMN label_events.click_labels IS 'One a click: 1 cell, 0 background.';
COMMENT ON COLUMN label_events.boxes IS 'x0, y0, x1, y1, ... px, frame, x1 and y1 exclusive.';
COMMENT ON COLUMN label_events.seconds IS 'How long the person took.';
COMMENT ON COLUMN label_events.who IS 'Who made it; file for a label file of the data set that changed on disk.';
COMMENT ON COLUMN label_events."when" IS 'UTC.';
COMMENT ON COLUMN label_events.reason IS 'Why, in words; the path of the file for files.';
COMMENT ON COLUMN label_events.sum IS 'Sum of the whole label image of a file; empty for people.';
COMMENT ON COLUMN label_events.target IS 'Version that is taken back or repeated; NULL for other kinds.';

CREATE TABLE plans (
    plan VARCHAR, view VARCHAR, frame VARCHAR, tile BIGINT, variant BIGINT, x0 BIGINT, y0 BIGINT, width BIGINT,
    height BIGINT, lo DOUBLE, hi DOUBLE, seed BIGINT, params VARCHAR, "row" BIGINT
);
COMMENT ON TABLE plans IS 'Every row of every plan (plan/*.parquet): which views are to be embedded.';
COMMENT ON COLUMN plans.plan IS 'Name of the plan file without its ending.';
COMMENT ON COLUMN plans.view IS 'Digest of frame sha256, normalisation limits, tile rectangle and variant parameters.';
COMMENT ON COLUMN plans.frame IS 'frames.frame.';
COMMENT ON COLUMN plans.tile IS 'Number of the tile in its frame; 0 for whole frames.';
COMMENT ON COLUMN plans.variant IS '0 as acquired, 1..N augmented.';
COMMENT ON COLUMN plans.x0 IS 'Left edge of the tile, px, frame.';
COMMENT ON COLUMN plans.y0 IS 'Upper edge of the tile, px, frame.';
COMMENT ON COLUMN plans.width IS 'Width of the tile, px, frame.';
COMMENT ON COLUMN plans.height IS 'Height of the tile, px, frame.';
COMMENT ON COLUMN plans.lo IS 'Lower normalisation limit of the frame, counts.';
COMMENT ON COLUMN plans.hi IS 'Upper normalisation limit of the frame, counts.';
COMMENT ON COLUMN plans.seed IS 'Seed of the variant.';
COMMENT ON COLUMN plans.params IS 'Parameters of the variant, JSON.';
COMMENT ON COLUMN plans."row" IS 'Index in every embeddings array.';

CREATE VIEW views AS
    SELECT DISTINCT ON (view, frame) * EXCLUDE (plan) FROM plans ORDER BY view, frame, plan;
COMMENT ON VIEW views IS 'Everything that is encoded: a tile of a frame or the whole frame; the rows of all plans, each view once.';

CREATE TABLE committed (view VARCHAR, encoder VARCHAR, "row" BIGINT);
COMMENT ON TABLE committed IS 'Views whose embedding is durable, by encoder key (ledger/<encoder>/*.jsonl).';
COMMENT ON COLUMN committed.view IS 'views.view.';
COMMENT ON COLUMN committed.encoder IS 'Encoder key: name of the array under arrays.zarr/embeddings/.';
COMMENT ON COLUMN committed."row" IS 'Index in that array.';

CREATE TABLE runs (
    id VARCHAR, kind VARCHAR, parent VARCHAR, checkpoint VARCHAR, encoder VARCHAR, split VARCHAR, created TIMESTAMP,
    config JSON, labels_version BIGINT
);
COMMENT ON TABLE runs IS 'One row a published run (runs/<id>/config.json).';
COMMENT ON COLUMN runs.id IS 'Folder under runs/; sorts by the time it began.';
COMMENT ON COLUMN runs.kind IS 'finetune, evaluate, ...';
COMMENT ON COLUMN runs.parent IS 'Run it builds on; of an evaluation the run whose checkpoint it scored; NULL for none.';
COMMENT ON COLUMN runs.checkpoint IS 'Run whose weights it used, or "zero-shot" for the decoder the encoder came with.';
COMMENT ON COLUMN runs.encoder IS 'Encoder key of the embeddings it read.';
COMMENT ON COLUMN runs.split IS 'train, val, test or all, as asked for; NULL where it does not apply.';
COMMENT ON COLUMN runs.created IS 'When it began, UTC.';
COMMENT ON COLUMN runs.config IS 'The whole of config.json, e.g. config->''config''->>''lr''.';
COMMENT ON COLUMN runs.labels_version IS 'Version of the labels that it read; 0 as ingested.';

CREATE VIEW cells_at AS
    SELECT
        v.labels_version, c.cell, c.frame, c.label, c.area, c.area_um2, c.diameter, c.x0, c.y0, c.x1, c.y1, c.cx, c.cy,
        c.eccentricity, c.touches_neighbour, c.touches_border, c.mean_intensity, c.round_trip_iou
    FROM cell_versions c
    JOIN (SELECT DISTINCT labels_version FROM runs UNION SELECT coalesce(max(version), 0) FROM label_events) v
        ON c.since <= v.labels_version AND (c.until IS NULL OR v.labels_version < c.until);
COMMENT ON VIEW cells_at IS
    'The cells at the latest version of the labels and at every version that a run read; other columns as in cells.';
COMMENT ON COLUMN cells_at.labels_version IS 'Version of the labels; 0 as ingested.';
COMMENT ON COLUMN cells_at.cell IS 'Id, "<frame>#<label>", e.g. "01/t012#17".';
COMMENT ON COLUMN cells_at.frame IS 'frames.frame.';
COMMENT ON COLUMN cells_at.label IS 'Value in the label image.';
COMMENT ON COLUMN cells_at.area IS 'px.';
COMMENT ON COLUMN cells_at.area_um2 IS 'um^2; NULL where the pixel size is unknown.';
COMMENT ON COLUMN cells_at.diameter IS 'Diameter of the disc with the same area, in pixels.';
COMMENT ON COLUMN cells_at.x0 IS 'Left edge of the bounding box, px, frame, inclusive.';
COMMENT ON COLUMN cells_at.y0 IS 'Upper edge of the bounding box, px, frame, inclusive.';
COMMENT ON COLUMN cells_at.x1 IS 'Right edge of the bounding box, px, frame, exclusive.';
COMMENT ON COLUMN cells_at.y1 IS 'Lower edge of the bounding box, px, frame, exclusive.';
COMMENT ON COLUMN cells_at.cx IS 'x of the centroid, px, frame.';
COMMENT ON COLUMN cells_at.cy IS 'y of the centroid, px, frame.';
COMMENT ON COLUMN cells_at.eccentricity IS 'Eccentricity of the ellipse with the same second moments, 0 (disc) to 1.';
COMMENT ON COLUMN cells_at.touches_neighbour IS 'True where a pixel of another cell is adjacent.';
COMMENT ON COLUMN cells_at.touches_border IS 'True where the cell reaches the border of the frame.';
COMMENT ON COLUMN cells_at.mean_intensity IS 'Mean count above the black level (offset) of the recipe.';
COMMENT ON COLUMN cells_at.round_trip_iou IS 'IoU of the true mask with itself after the 256x256 grid of its tile: a floor, not a bound.';

CREATE TABLE prompts (
    run VARCHAR, prompt_id VARCHAR, kind VARCHAR, origin VARCHAR, prompt_seed BIGINT, split VARCHAR, cell VARCHAR,
    frame VARCHAR, view VARCHAR, x0 DOUBLE, y0 DOUBLE, x1 DOUBLE, y1 DOUBLE, points DOUBLE[], point_labels BIGINT[],
    params VARCHAR, prompt_iou DOUBLE, free_iou DOUBLE, free_dice DOUBLE, cut BOOLEAN,
    free_ellipse_iou DOUBLE
);
COMMENT ON TABLE prompts IS 'One prompt for one cell (runs/<id>/prompts.parquet).';
COMMENT ON COLUMN prompts.run IS 'runs.id.';
COMMENT ON COLUMN prompts.prompt_id IS 'Unique within the run.';
COMMENT ON COLUMN prompts.kind IS 'Kind of prompt, e.g. box-exact, or a setting of one, e.g. box@0.1; none for cells found without a prompt.';
COMMENT ON COLUMN prompts.origin IS 'How it was made: from the truth, or the name of the file or folder it came from.';
COMMENT ON COLUMN prompts.prompt_seed IS 'Draws depend on (cell, kind, prompt_seed) alone: runs pair on identical prompts.';
COMMENT ON COLUMN prompts.split IS 'Split of the row''s frame: train, val, test or gap.';
COMMENT ON COLUMN prompts.cell IS 'cells.cell.';
COMMENT ON COLUMN prompts.frame IS 'frames.frame.';
COMMENT ON COLUMN prompts.view IS 'views.view in which it was decoded.';
COMMENT ON COLUMN prompts.x0 IS 'Left edge of the box, px, frame; NULL without a box.';
COMMENT ON COLUMN prompts.y0 IS 'Upper edge of the box, px, frame.';
COMMENT ON COLUMN prompts.x1 IS 'Right edge of the box, px, frame, exclusive.';
COMMENT ON COLUMN prompts.y1 IS 'Lower edge of the box, px, frame, exclusive.';
COMMENT ON COLUMN prompts.points IS 'x, y, x, y, ... px, frame.';
COMMENT ON COLUMN prompts.point_labels IS 'One a point: 1 cell, 0 background.';
COMMENT ON COLUMN prompts.params IS 'How a mask prompt was degraded, JSON.';
COMMENT ON COLUMN prompts.prompt_iou IS 'IoU of the mask prompt itself with the truth; NULL without a mask.';
COMMENT ON COLUMN prompts.free_iou IS 'IoU of the image-free answer to this prompt: what not looking at the image scores.';
COMMENT ON COLUMN prompts.free_dice IS 'Dice of the image-free answer.';
COMMENT ON COLUMN prompts.cut IS 'True where no tile holds the whole cell; scored against its full area.';
COMMENT ON COLUMN prompts.free_ellipse_iou IS 'IoU of the ellipse of a mask prompt''s moments, its size halfway to the median training cell; NULL without a mask.';

CREATE TABLE predictions (
    run VARCHAR, prompt_id VARCHAR, cell VARCHAR, frame VARCHAR, view VARCHAR, iou DOUBLE, dice DOUBLE,
    predicted_iou DOUBLE, is_empty BOOLEAN, boundary_iou DOUBLE, hd95 DOUBLE, nsd1 DOUBLE, nsd2 DOUBLE, spill DOUBLE,
    failure VARCHAR, rle VARCHAR, rle_height BIGINT, rle_width BIGINT,
    prompt VARCHAR, prompt_origin VARCHAR, prompt_seed BIGINT, split VARCHAR, cut BOOLEAN
);
COMMENT ON TABLE predictions IS 'The decoder''s mask for one prompt (runs/<id>/predictions.parquet).';
COMMENT ON COLUMN predictions.run IS 'runs.id.';
COMMENT ON COLUMN predictions.prompt_id IS 'prompts.prompt_id of the same run.';
COMMENT ON COLUMN predictions.cell IS 'cells.cell.';
COMMENT ON COLUMN predictions.frame IS 'frames.frame.';
COMMENT ON COLUMN predictions.view IS 'views.view in which it was decoded.';
COMMENT ON COLUMN predictions.iou IS 'With the true mask, 0 to 1.';
COMMENT ON COLUMN predictions.dice IS 'With the true mask, 0 to 1.';
COMMENT ON COLUMN predictions.predicted_iou IS 'The decoder''s own estimate.';
COMMENT ON COLUMN predictions.is_empty IS 'True where the mask has no pixel.';
COMMENT ON COLUMN predictions.boundary_iou IS 'IoU of the bands along both boundaries, 8 % of the diameter wide.';
COMMENT ON COLUMN predictions.hd95 IS '95 % Hausdorff distance, px; of an empty mask the cell''s diameter.';
COMMENT ON COLUMN predictions.nsd1 IS 'Normalised surface Dice at 1 px.';
COMMENT ON COLUMN predictions.nsd2 IS 'Normalised surface Dice at 2 px.';
COMMENT ON COLUMN predictions.spill IS 'Share of the predicted pixels that lie on other cells.';
COMMENT ON COLUMN predictions.failure IS
    'empty, wrong cell, merged, leak, under-segmented, fragmented, or "" for none (hela_store/metrics/failures.py).';
COMMENT ON COLUMN predictions.rle IS 'Mask in frame coordinates, COCO compressed run lengths.';
COMMENT ON COLUMN predictions.rle_height IS 'Rows of the mask, px.';
COMMENT ON COLUMN predictions.rle_width IS 'Columns of the mask, px.';
COMMENT ON COLUMN predictions.prompt IS 'prompts.kind, repeated so that cell_metrics joins no two large tables.';
COMMENT ON COLUMN predictions.prompt_origin IS 'prompts.origin, repeated.';
COMMENT ON COLUMN predictions.prompt_seed IS 'prompts.prompt_seed, repeated.';
COMMENT ON COLUMN predictions.split IS 'prompts.split, repeated.';
COMMENT ON COLUMN predictions.cut IS 'prompts.cut, repeated.';

CREATE VIEW cell_subsets AS
    SELECT
        labels_version, cell, touches_neighbour AS is_touching, brightness > n - n // 5 AND size <= n // 5 AS is_bright_small,
        brightness <= n // 5 AS is_dim
    FROM (
        SELECT
            labels_version, cell, touches_neighbour, count(*) OVER (PARTITION BY labels_version, frame) AS n,
            row_number() OVER (PARTITION BY labels_version, frame ORDER BY mean_intensity, label) AS brightness,
            row_number() OVER (PARTITION BY labels_version, frame ORDER BY area, label) AS size
        FROM cells_at
    );
COMMENT ON VIEW cell_subsets IS
    'Which hard subset a cell belongs to; fifths of the labelled cells of its frame, rounded down.';
COMMENT ON COLUMN cell_subsets.labels_version IS 'cells_at.labels_version.';
COMMENT ON COLUMN cell_subsets.cell IS 'cells.cell.';
COMMENT ON COLUMN cell_subsets.is_touching IS 'cells.touches_neighbour.';
COMMENT ON COLUMN cell_subsets.is_bright_small IS
    'Among the brightest fifth by mean_intensity and the smallest fifth by area: mostly mitotic cells.';
COMMENT ON COLUMN cell_subsets.is_dim IS 'Among the dimmest fifth by mean_intensity.';
CREATE TABLE detections (
    run VARCHAR, detection VARCHAR, split VARCHAR, frame VARCHAR, view VARCHAR, x0 DOUBLE, y0 DOUBLE, x1 DOUBLE,
    y1 DOUBLE, cx DOUBLE, cy DOUBLE, x DOUBLE, y DOUBLE, score DOUBLE, cell VARCHAR, iou DOUBLE, mask_cell VARCHAR,
    mask_iou DOUBLE, counted BOOLEAN, rle VARCHAR, rle_height BIGINT, rle_width BIGINT
);
COMMENT ON TABLE detections IS 'Detections, each cell of a frame once (runs/<id>/detections.parquet).';
COMMENT ON COLUMN detections.run IS 'runs.id.';
COMMENT ON COLUMN detections.detection IS 'Unique within the run.';
COMMENT ON COLUMN detections.split IS 'Split of the frame: train, val, test or gap.';
COMMENT ON COLUMN detections.frame IS 'frames.frame.';
COMMENT ON COLUMN detections.view IS 'views.view it was found in; NULL for imported boxes.';
COMMENT ON COLUMN detections.x0 IS 'Left edge of the box, px, frame.';
COMMENT ON COLUMN detections.y0 IS 'Upper edge of the box, px, frame.';
COMMENT ON COLUMN detections.x1 IS 'Right edge of the box, px, frame, exclusive.';
COMMENT ON COLUMN detections.y1 IS 'Lower edge of the box, px, frame, exclusive.';
COMMENT ON COLUMN detections.cx IS 'x of the box''s centre, px, frame.';
COMMENT ON COLUMN detections.cy IS 'y of the box''s centre, px, frame.';
COMMENT ON COLUMN detections.x IS 'x of the click point, px, frame.';
COMMENT ON COLUMN detections.y IS 'y of the click point, px, frame.';
COMMENT ON COLUMN detections.score IS '0 to 1; which score counts is config->''config''->>''threshold'' of the run.';
COMMENT ON COLUMN detections.cell IS 'cells.cell it was matched with by box IoU, one to one, least IoU 0.5; NULL for none.';
COMMENT ON COLUMN detections.iou IS 'IoU of the box with that cell''s box.';
COMMENT ON COLUMN detections.mask_cell IS 'cells.cell by the IoU of the coarse mask, one to one, least IoU 0.5; NULL for none.';
COMMENT ON COLUMN detections.mask_iou IS 'IoU of the coarse mask with that cell.';
COMMENT ON COLUMN detections.counted IS 'False where it is neither right nor wrong: mostly on pixels that say nothing.';
COMMENT ON COLUMN detections.rle IS 'Coarse mask in frame coordinates, COCO compressed run lengths; NULL without one.';
COMMENT ON COLUMN detections.rle_height IS 'Rows of the mask, px.';
COMMENT ON COLUMN detections.rle_width IS 'Columns of the mask, px.';

CREATE TABLE suspects (
    run VARCHAR, suspect VARCHAR, rank BIGINT, split VARCHAR, frame VARCHAR, cell VARCHAR, x0 BIGINT, y0 BIGINT,
    x1 BIGINT, y1 BIGINT, cx DOUBLE, cy DOUBLE, score DOUBLE, kind VARCHAR, reason VARCHAR,
    size DOUBLE, solidity DOUBLE, roughness DOUBLE, thickness DOUBLE, pieces DOUBLE, contrast DOUBLE, texture
    DOUBLE, edge DOUBLE, overlap DOUBLE, overlap_least DOUBLE, growth DOUBLE, covers DOUBLE, siblings DOUBLE,
    renamed DOUBLE, mask_answer DOUBLE, box_answer DOUBLE, agreement DOUBLE, mask_confidence DOUBLE, box_confidence
    DOUBLE, box_growth DOUBLE, spill DOUBLE, detection DOUBLE, detections DOUBLE,
    oddity DOUBLE, rle VARCHAR, rle_height BIGINT, rle_width BIGINT
);
COMMENT ON TABLE suspects IS 'Labels by how suspicious they are, and places that lack one (runs/<id>/suspects.parquet).';
COMMENT ON COLUMN suspects.run IS 'runs.id.';
COMMENT ON COLUMN suspects.suspect IS 'Unique within the run.';
COMMENT ON COLUMN suspects.rank IS '1 for the most suspicious.';
COMMENT ON COLUMN suspects.split IS 'Split of the frame: train, val, test or gap.';
COMMENT ON COLUMN suspects.frame IS 'frames.frame.';
COMMENT ON COLUMN suspects.cell IS 'cells.cell of the label; NULL for a place without a label.';
COMMENT ON COLUMN suspects.x0 IS 'Left edge of the label or place, px, frame, inclusive.';
COMMENT ON COLUMN suspects.y0 IS 'Upper edge, px, frame, inclusive.';
COMMENT ON COLUMN suspects.x1 IS 'Right edge, px, frame, exclusive.';
COMMENT ON COLUMN suspects.y1 IS 'Lower edge, px, frame, exclusive.';
COMMENT ON COLUMN suspects.cx IS 'x of the box''s centre, px, frame.';
COMMENT ON COLUMN suspects.cy IS 'y of the box''s centre, px, frame.';
COMMENT ON COLUMN suspects.score IS 'Chance of a fault, were 2 % of all labels faulty, 0 to 1.';
COMMENT ON COLUMN suspects.kind IS 'Most likely fault: missing, merged, split, shifted, ragged, crescent, identity or debris.';
COMMENT ON COLUMN suspects.reason IS 'The fault in words, and the signs that speak for it.';
COMMENT ON COLUMN suspects.size IS 'log2 of its area over the median area of the labels.';
COMMENT ON COLUMN suspects.solidity IS 'Share of its convex hull that it fills.';
COMMENT ON COLUMN suspects.roughness IS '1 - IoU of it with itself after smoothing.';
COMMENT ON COLUMN suspects.thickness IS 'Diameter of the largest disc in it over the diameter of the disc with the same area.';
COMMENT ON COLUMN suspects.pieces IS 'Share of its pixels outside of its largest piece.';
COMMENT ON COLUMN suspects.contrast IS 'Mean brightness inside less that around it, in standard deviations of the frame.';
COMMENT ON COLUMN suspects.texture IS 'Standard deviation of the brightness inside, in those of the frame.';
COMMENT ON COLUMN suspects.edge IS 'Mean gradient along its outline over the upper fifth of the gradients in and around it.';
COMMENT ON COLUMN suspects.overlap IS 'Largest IoU with a label of the frame before or after; the better of the two frames. NULL for stills.';
COMMENT ON COLUMN suspects.overlap_least IS 'The same for the worse of the two frames.';
COMMENT ON COLUMN suspects.growth IS 'Absolute log2 of its area over that of the label that it overlaps most; the smaller of the two frames.';
COMMENT ON COLUMN suspects.covers IS 'Labels of the frame before or after that lie mostly in it; the larger of the two frames.';
COMMENT ON COLUMN suspects.siblings IS 'Labels of its frame that lie mostly in the label of another frame that holds it.';
COMMENT ON COLUMN suspects.renamed IS 'Frames before and after in which the label at its place has another number; NULL where labels are no tracks.';
COMMENT ON COLUMN suspects.mask_answer IS 'IoU of the decoder''s answer to the label with the label; NULL for a place.';
COMMENT ON COLUMN suspects.box_answer IS 'IoU of the decoder''s answer to its bounding box with the label.';
COMMENT ON COLUMN suspects.agreement IS 'IoU of these two answers; NULL for a place.';
COMMENT ON COLUMN suspects.mask_confidence IS 'IoU that the decoder predicts for its answer to the label; NULL for a place.';
COMMENT ON COLUMN suspects.box_confidence IS 'IoU that the decoder predicts for its answer to the box.';
COMMENT ON COLUMN suspects.box_growth IS 'log2 of the area of the answer to the box over its area.';
COMMENT ON COLUMN suspects.spill IS 'Share of the answer to the box on other labels.';
COMMENT ON COLUMN suspects.detection IS 'Largest product of a detection''s score and the IoU of its box with this one.';
COMMENT ON COLUMN suspects.detections IS 'Detections in it, with a score of 0.4 or more.';
COMMENT ON COLUMN suspects.oddity IS 'log2 of the distance of its embedding to the nearest ones of labels of other blocks, over the median distance.';
COMMENT ON COLUMN suspects.rle IS 'Proposed mask in frame coordinates, COCO compressed run lengths; NULL where no other mask mends it.';
COMMENT ON COLUMN suspects.rle_height IS 'Rows of the mask, px.';
COMMENT ON COLUMN suspects.rle_width IS 'Columns of the mask, px.';
CREATE TABLE changes (
    run VARCHAR, "change" VARCHAR, frame VARCHAR, split VARCHAR, fitted VARCHAR, view VARCHAR, file VARCHAR,
    label BIGINT, new_label BIGINT, action VARCHAR, reason VARCHAR, proposal VARCHAR, partner BIGINT, x0 BIGINT, y0 BIGINT, x1 BIGINT,
    y1 BIGINT, area_before BIGINT, area_after BIGINT, iou_change DOUBLE, predicted_iou DOUBLE, agreement DOUBLE,
    steadiness DOUBLE, contrast DOUBLE, probability DOUBLE, cell VARCHAR, iou_before DOUBLE, iou_after DOUBLE,
    rle_before VARCHAR, rle VARCHAR, rle_height BIGINT, rle_width BIGINT
);
COMMENT ON TABLE changes IS 'What became of each mask of another tool (runs/<id>/changes.parquet of a run of kind mend).';
COMMENT ON COLUMN changes.run IS 'runs.id.';
COMMENT ON COLUMN changes."change" IS 'Unique within the run: frame and value in the label image.';
COMMENT ON COLUMN changes.frame IS 'frames.frame.';
COMMENT ON COLUMN changes.split IS 'Split of the frame: train, val, test or gap.';
COMMENT ON COLUMN changes.fitted IS
    'What was fitted on the labels of the frame: decoder, gate, errors, or several; empty for nothing. IoU is too high there.';
COMMENT ON COLUMN changes.view IS 'views.view in which it was decoded.';
COMMENT ON COLUMN changes.file IS 'Label image that was written, below the output folder.';
COMMENT ON COLUMN changes.label IS 'Value in the tool''s label image; NULL for a piece that a split added.';
COMMENT ON COLUMN changes.new_label IS 'Value in the mended label image; NULL for a mask that was merged into another.';
COMMENT ON COLUMN changes.action IS 'kept, mended, split or merged.';
COMMENT ON COLUMN changes.reason IS 'Why, in words.';
COMMENT ON COLUMN changes.proposal IS 'split, merge or empty.';
COMMENT ON COLUMN changes.partner IS 'Label of the other mask of a merge, or of a split that was applied.';
COMMENT ON COLUMN changes.x0 IS 'Left edge of the old mask''s bounding box, px, frame, inclusive.';
COMMENT ON COLUMN changes.y0 IS 'Upper edge of the old mask''s bounding box, px, frame, inclusive.';
COMMENT ON COLUMN changes.x1 IS 'Right edge of the old mask''s bounding box, px, frame, exclusive.';
COMMENT ON COLUMN changes.y1 IS 'Lower edge of the old mask''s bounding box, px, frame, exclusive.';
COMMENT ON COLUMN changes.area_before IS 'px; NULL for a piece that a split added.';
COMMENT ON COLUMN changes.area_after IS 'px.';
COMMENT ON COLUMN changes.iou_change IS 'IoU of the mask after with the mask before; 1 where it was kept.';
COMMENT ON COLUMN changes.predicted_iou IS 'The decoder''s own estimate of its answer.';
COMMENT ON COLUMN changes.agreement IS 'IoU of the answer with the mask that was given.';
COMMENT ON COLUMN changes.steadiness IS 'Mean IoU of the answer with the answers to slightly moved prompts.';
COMMENT ON COLUMN changes.contrast IS 'Log of how much steeper the image is along the edge of the answer than along that of the mask.';
COMMENT ON COLUMN changes.probability IS 'That the answer is better than the mask, calibrated on validation (gate.json of the run).';
COMMENT ON COLUMN changes.cell IS 'cells.cell that the old mask stands for, one to one, least IoU 0.3; NULL for none.';
COMMENT ON COLUMN changes.iou_before IS 'IoU of the old mask with that cell.';
COMMENT ON COLUMN changes.iou_after IS 'IoU of the mask after with that cell.';
COMMENT ON COLUMN changes.rle_before IS 'Mask before, in frame coordinates, COCO compressed run lengths.';
COMMENT ON COLUMN changes.rle IS 'Mask after, in frame coordinates, COCO compressed run lengths.';
COMMENT ON COLUMN changes.rle_height IS 'Rows of the mask, px.';
COMMENT ON COLUMN changes.rle_width IS 'Columns of the mask, px.';

CREATE VIEW cell_metrics AS
    SELECT
        p.run, r.kind, r.checkpoint, r.encoder, p.prompt, p.prompt_origin, p.prompt_seed, p.split, f.sequence, p.frame,
        f.time, p.view, p.cell, c.label, c.area, c.diameter, c.touches_neighbour, c.touches_border, s.is_bright_small,
        s.is_dim, p.cut, p.iou, p.dice, p.predicted_iou, p.is_empty, p.boundary_iou, p.hd95, p.nsd1, p.nsd2, p.spill,
        p.failure, r.labels_version, t.labels_version AS trained_labels_version
    FROM predictions p
    LEFT JOIN runs r ON r.id = p.run
    LEFT JOIN runs t ON t.id = r.checkpoint
    LEFT JOIN cells_at c ON c.cell = p.cell AND c.labels_version = r.labels_version
    LEFT JOIN cell_subsets s ON s.cell = p.cell AND s.labels_version = r.labels_version
    LEFT JOIN frames f ON f.frame = p.frame;
COMMENT ON VIEW cell_metrics IS
    'Every scored cell of every run, joined with what is known of it. Unique in (run, prompt, prompt_seed, cell).';
COMMENT ON COLUMN cell_metrics.run IS 'runs.id of the evaluation.';
COMMENT ON COLUMN cell_metrics.kind IS 'Kind of the run.';
COMMENT ON COLUMN cell_metrics.checkpoint IS 'Run whose weights were scored, or "zero-shot".';
COMMENT ON COLUMN cell_metrics.encoder IS 'Encoder key.';
COMMENT ON COLUMN cell_metrics.prompt IS 'Kind of prompt, e.g. box-exact, or a setting of one, e.g. box@0.1; none for cells found without a prompt.';
COMMENT ON COLUMN cell_metrics.prompt_origin IS 'How the prompt was made.';
COMMENT ON COLUMN cell_metrics.prompt_seed IS 'Seed of the prompt.';
COMMENT ON COLUMN cell_metrics.split IS 'Split of the frame as this run saw it: train, val, test or gap.';
COMMENT ON COLUMN cell_metrics.sequence IS 'frames.sequence.';
COMMENT ON COLUMN cell_metrics.frame IS 'frames.frame.';
COMMENT ON COLUMN cell_metrics.time IS 'frames.time.';
COMMENT ON COLUMN cell_metrics.view IS 'views.view in which it was decoded.';
COMMENT ON COLUMN cell_metrics.cell IS 'cells.cell.';
COMMENT ON COLUMN cell_metrics.label IS 'cells.label.';
COMMENT ON COLUMN cell_metrics.area IS 'px.';
COMMENT ON COLUMN cell_metrics.diameter IS 'Diameter of the disc with the same area, in pixels.';
COMMENT ON COLUMN cell_metrics.touches_neighbour IS 'A pixel of another cell is adjacent.';
COMMENT ON COLUMN cell_metrics.touches_border IS 'The cell reaches the border of the frame.';
COMMENT ON COLUMN cell_metrics.is_bright_small IS 'Bright and small for its frame (cell_subsets): mostly mitotic cells.';
COMMENT ON COLUMN cell_metrics.is_dim IS 'Among the dimmest fifth of its frame.';
COMMENT ON COLUMN cell_metrics.cut IS 'No tile holds the whole cell.';
COMMENT ON COLUMN cell_metrics.iou IS 'Prediction against truth, 0 to 1.';
COMMENT ON COLUMN cell_metrics.dice IS 'Prediction against truth, 0 to 1.';
COMMENT ON COLUMN cell_metrics.predicted_iou IS 'The decoder''s own estimate.';
COMMENT ON COLUMN cell_metrics.is_empty IS 'The predicted mask has no pixel.';
COMMENT ON COLUMN cell_metrics.boundary_iou IS 'IoU of the bands along both boundaries, 8 % of the diameter wide.';
COMMENT ON COLUMN cell_metrics.hd95 IS '95 % Hausdorff distance, px; of an empty mask the cell''s diameter.';
COMMENT ON COLUMN cell_metrics.nsd1 IS 'Normalised surface Dice at 1 px.';
COMMENT ON COLUMN cell_metrics.nsd2 IS 'Normalised surface Dice at 2 px.';
COMMENT ON COLUMN cell_metrics.spill IS 'Share of the predicted pixels that lie on other cells.';
COMMENT ON COLUMN cell_metrics.failure IS
    'empty, wrong cell, merged, leak, under-segmented, fragmented, or "" for none; NULL in runs that did not ask.';
COMMENT ON COLUMN cell_metrics.labels_version IS 'Version of the labels that it was scored against; 0 as ingested.';
COMMENT ON COLUMN cell_metrics.trained_labels_version IS
    'Version of the labels that its checkpoint was trained on; NULL for "zero-shot".';

CREATE VIEW test_scorings AS
    SELECT checkpoint, count_if(kind <> 'budget') AS scorings, count_if(kind = 'budget') AS points,
        min(created) AS first, max(created) AS last
    FROM runs WHERE kind <> 'finetune' AND split IN ('test', 'all') GROUP BY checkpoint ORDER BY checkpoint;
COMMENT ON VIEW test_scorings IS 'How often the test split was scored, by checkpoint (rule "blocks of time").';
COMMENT ON COLUMN test_scorings.checkpoint IS 'Run whose weights were scored, or "zero-shot".';
COMMENT ON COLUMN test_scorings.scorings IS 'Number of runs that scored it with split test or all, points of studies of budgets aside.';
COMMENT ON COLUMN test_scorings.points IS 'Number of points of studies of budgets that did, on a sample of its cells.';
COMMENT ON COLUMN test_scorings.first IS 'When the first of them began, UTC.';
COMMENT ON COLUMN test_scorings.last IS 'When the last of them began, UTC.';

CREATE TABLE own_values (
    run VARCHAR, cell VARCHAR, prompt VARCHAR, prompt_seed BIGINT, name VARCHAR, kind VARCHAR, number DOUBLE,
    "integer" BIGINT, "text" VARCHAR, "boolean" BOOLEAN, metrics VARCHAR
);
COMMENT ON TABLE own_values IS
    'Values of users'' own columns (runs/<id>/metrics.parquet), one row each; my_metrics has them as columns.';
COMMENT ON COLUMN own_values.run IS 'runs.id of the run that they belong to.';
COMMENT ON COLUMN own_values.cell IS 'cells.cell.';
COMMENT ON COLUMN own_values.prompt IS 'prompts.kind; NULL where the value belongs to the cell, whatever the prompt.';
COMMENT ON COLUMN own_values.prompt_seed IS 'prompts.prompt_seed; NULL where it is of all of them.';
COMMENT ON COLUMN own_values.name IS 'Name of the column in my_metrics.';
COMMENT ON COLUMN own_values.kind IS 'Type of the column: DOUBLE, BIGINT, VARCHAR or BOOLEAN.';
COMMENT ON COLUMN own_values.number IS 'The value, of a column of type DOUBLE.';
COMMENT ON COLUMN own_values."integer" IS 'The value, of a column of type BIGINT.';
COMMENT ON COLUMN own_values."text" IS 'The value, of a column of type VARCHAR.';
COMMENT ON COLUMN own_values."boolean" IS 'The value, of a column of type BOOLEAN.';
COMMENT ON COLUMN own_values.metrics IS 'runs.id of the run that published it.';

CREATE TABLE cell_vectors (
    run VARCHAR, encoder VARCHAR, checkpoint VARCHAR, cell VARCHAR, frame VARCHAR, "view" VARCHAR, vector FLOAT[256],
    token FLOAT[256]
);
COMMENT ON TABLE cell_vectors IS
    'Labelled cells as vectors (runs/<id>/cell_vectors.parquet); each cell once for every encoder and checkpoint.';
COMMENT ON COLUMN cell_vectors.run IS 'runs.id of the run of kind vectors that made it.';
COMMENT ON COLUMN cell_vectors.encoder IS 'Encoder key of the embedding.';
COMMENT ON COLUMN cell_vectors.checkpoint IS
    'Run whose decoder made the token, or "zero-shot"; NULL for vectors without tokens.';
COMMENT ON COLUMN cell_vectors.cell IS 'cells.cell.';
COMMENT ON COLUMN cell_vectors.frame IS 'frames.frame.';
COMMENT ON COLUMN cell_vectors."view" IS 'views.view whose embedding was pooled: the tile in which the cell is most interior.';
COMMENT ON COLUMN cell_vectors.vector IS 'Mean of the embedding over the pixels of the cell.';
COMMENT ON COLUMN cell_vectors.token IS 'Mask token of the decoder for the bounding box of the cell; NULL without a checkpoint.';

CREATE TABLE indexed (path VARCHAR, kind VARCHAR, bytes BIGINT, sum VARCHAR);
COMMENT ON TABLE indexed IS 'Files of the store that are in this catalog; used to find what is missing.';
COMMENT ON COLUMN indexed.path IS 'Relative to the store.';
COMMENT ON COLUMN indexed.kind IS 'frames, cells, labels, plan, ledger or run.';
COMMENT ON COLUMN indexed.bytes IS 'Size when it was indexed; 0 for a run, whose folder never changes.';
COMMENT ON COLUMN indexed.sum IS 'For a run, the sha256 of its manifest.json, so that a run that changed is refused; else empty.';

CREATE TABLE catalog_schema (digest VARCHAR);
COMMENT ON TABLE catalog_schema IS 'Digest of the schema this catalog was made with.';

CREATE TABLE table_sums (name VARCHAR, "rows" BIGINT, sum VARCHAR);
COMMENT ON TABLE table_sums IS 'Sums of the rows that were written into each table, so that rows that were altered are noticed.';
COMMENT ON COLUMN table_sums.name IS 'Name of the table.';
COMMENT ON COLUMN table_sums."rows" IS 'Number of its rows.';
COMMENT ON COLUMN table_sums.sum IS 'Sum of DuckDB''s hash over its rows.';
