"""The guards: what each is for, how it is taken away, and who must notice."""

from dataclasses import dataclass

RULES = "tests/contract/test_rules.py"
TIMELINE = "tests/contract/test_timeline.py"
FOUND = "tests/oracle/test_found.py"
FIXED = "tests/mutations/test_guards.py"
JOBS = "tests/contract/test_jobs.py"


@dataclass(frozen=True)
class Mutant:
    """`old` occurs exactly once in `file`. `tests`: pytest's own names of them, with these `marks`;
    `races`: those of the interleavings."""

    name: str
    rule: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    races: tuple[str, ...] = ()
    marks: str = "not servers"


def _of(file: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"{file}::{test}" for test in tests)


PUNCTUAL = (
    "                if self._clock.monotonic() - asked.began_s > self._config.timeline_ttl_s:\n"
    "                    return False  # so late that whom they followed meanwhile may have been forgotten again\n"
)
REBUILT = (  # the order of `Lists.rebuild`
    "                leased = await self._memcached.add(at, lease.packed(), self._config.lease_s)\n"
    "                if leased is None:\n                    return False\n"
    "                active = await self._activity.mark(reader, await asked.followees())\n" + PUNCTUAL + ""
    "                if await self._fill(at, lease.token, leased, await asked.recent(active.authors), active.until):\n"
)

MUTANTS: tuple[Mutant, ...] = (
    # `visible`, clause by clause
    Mutant(
        "deleted statuses are shown to their author",
        "2 visible",
        "app/access.py",
        "    if status.audience is None:  # deleted\n        return False\n",
        "",
        races=("delete x delivery x read, queue",),
    ),
    Mutant(
        "one's own statuses need no following",
        "2 visible",
        "app/access.py",
        "    if author == reader.id:\n        return True\n",
        "    if author == reader.id:\n        return False\n",
        _of(TIMELINE, "test_the_audience_decides_who_sees_a_status"),
    ),
    Mutant(
        "an unfollowed author is still seen",
        "2 visible, rule 2",
        "app/access.py",
        "if not follows or blocked:",
        "if blocked:",
        _of(TIMELINE, "test_what_is_taken_back_is_gone_at_the_next_read"),
    ),
    Mutant(
        "mutuals are all followers",
        "2 visible",
        "app/access.py",
        "            return reader.followed_by[author]\n",
        "            return True\n",
        _of(TIMELINE, "test_the_audience_decides_who_sees_a_status"),
    ),
    Mutant(
        "a circle is all followers",
        "2 visible",
        "app/access.py",
        "            return in_circle\n",
        "            return True\n",
        _of(TIMELINE, "test_the_audience_decides_who_sees_a_status"),
    ),
    # A page
    Mutant(
        "a page is not filled up again",
        "2 page",
        "phases/reading.py",
        "    while len(shown) <= limit:\n",
        "    for _ in range(1):\n",
        _of(FIXED, "test_a_page_is_filled_up_however_many_are_not_for_the_reader"),
    ),
    Mutant(
        "a status that is pending and in the list is shown twice",
        "2 page, rule 6",
        "phases/reading.py",
        "    return [by_id[id] for id in sorted(by_id, reverse=True)[:n]]\n",
        "    return sorted(entries, reverse=True)[:n]\n",
        races=("publish x read, queue",),
    ),
    # Rule 1
    Mutant(
        "a failed delivery fails the post",
        "1 save first",
        "app/social.py",
        "        try:\n            await self.timelines.deliver(slug, row)\n"
        "        except UNAVAILABLE as error:\n"
        '            log.warning("delivery of %s in %s is left to the sweeper: %s", row.id, slug, error)\n',
        "        await self.timelines.deliver(slug, row)\n",
        _of(FIXED, "test_a_delivery_that_fails_is_not_the_posters_business"),
    ),
    # Rule 3
    Mutant(
        "below the floor nothing is asked",
        "3 floor",
        "phases/reading.py",
        "if len(found) < n and part.floor > FIRST_ID:",
        "if False:",
        _of(RULES, "test_a_page_crosses_the_floor"),
    ),
    Mutant(
        "phase 1 is asked again for what is above the floor",
        "3 floor",
        "phases/reading.py",
        "min(cursor, part.floor)",
        "cursor",
        _of(RULES, "test_a_page_crosses_the_floor"),
    ),
    Mutant(
        "entries below the floor are believed",
        "3 floor",
        "phases/reading.py",
        "if self.floor <= entry.id < cursor]",
        "if entry.id < cursor]",
        _of(FIXED, "test_what_lies_below_the_floor_is_not_believed"),
    ),
    Mutant(
        "what is pending below the floor is shown twice",
        "3 floor",
        "phases/reading.py",
        "Slice(self._pending, part.floor, whole=True)",
        "Slice(self._pending, FIRST_ID, whole=True)",
        _of(FIXED, "test_what_is_pending_below_the_floor_is_shown_once"),
    ),
    Mutant(
        "cutting a list does not raise its floor",
        "3 floor",
        "phases/lists.py",
        "floor=ids[cap - 1] if len(ids) > cap else self.floor)",
        "floor=self.floor)",
        races=("trim on read x delivery",),
    ),
    Mutant(
        "cutting entries does not raise the floor",
        "3 floor",
        "phases/entries.py",
        '        if "floor" in kept:\n            change["$max"]["floor"] = bound\n',
        "",
        _of(RULES, "test_sweeping_cuts_to_the_cap_and_loses_nothing"),
    ),
    Mutant(
        "a rebuild forgets what was cut",
        "3 floor",
        "phases/entries.py",
        'floor = max(part.floor, (before or {}).get("cut", FIRST_ID))',
        "floor = part.floor",
        races=("trim x refresh",),
    ),
    Mutant(
        "a cut does not notice a rebuild",
        "3 floor, 8 order",
        "phases/entries.py",
        '{"_id": reader, "lease": kept.get("lease")}, change, upsert=not kept)',
        '{"_id": reader}, change, upsert=not kept)',
        races=("trim x refresh", "trim x rebuild"),
    ),
    Mutant(
        "a rebuild does not tell a cut that there is a floor now",
        "3 floor, 8 order",
        "phases/entries.py",
        '{"$set": {"floor": floor, "lease": ObjectId()}}',
        '{"$set": {"floor": floor}}',
        races=("trim x rebuild",),
    ),
    Mutant(
        "a cut that was refused deletes all the same",
        "3 floor, 8 order",
        "phases/entries.py",
        "if cut.matched_count or cut.upserted_id:",
        "if True:",
        races=("trim x refresh", "trim x rebuild"),
    ),
    Mutant(
        "a cut deletes before it raises the floor",
        "3 floor, 8 order",
        "phases/entries.py",
        '        change: dict[str, Any] = {"$set"',
        '        await self._entries(container).delete_many({"_id": {**whole, "$lt": entry_key(reader, bound)}})\n'
        '        change: dict[str, Any] = {"$set"',
        races=("trim x read",),
    ),
    Mutant(
        "a long backfill leaves a gap, lists",
        "3 floor, 4 backfill",
        "phases/lists.py",
        "            if len(entries) >= self._config.cap:\n"
        "                value = replace(value, floor=entries[-1].id.binary)\n",
        "",
        _of(FIXED, "test_a_long_backfill_into_an_empty_list_leaves_no_gap"),
    ),
    Mutant(
        "a long backfill leaves a gap, entries",
        "3 floor, 4 backfill",
        "phases/entries.py",
        "        if len(found) >= self._config.cap:\n",
        "        if False:\n",
        _of(RULES, "test_a_long_backfill_raises_the_floor_instead_of_leaving_a_gap"),
    ),
    Mutant(
        "a long backfill gives a floor to who has none",
        "3 floor",
        "phases/entries.py",
        '{"_id": reader, "floor": {"$exists": True}}, raised)',
        '{"_id": reader}, raised)',
        _of(FOUND, "test_a_floor_that_was_forgotten_stays_forgotten"),
    ),
    Mutant(
        "what is switched on is read at once",
        "3 grace",
        "phases/switch.py",
        " or id_floor(self._clock.now()) <= container.since:",
        ":",
        races=("switch on x publish x early return, cache",),
    ),
    Mutant(
        "what is switched off is owed nothing any more",
        "3 leaving",
        "phases/switch.py",
        "return (*self.delivering, *(slug for slug, until in self.leaving.items() if now < until))",
        "return self.delivering",
        races=("switch off, publish x late read, queue",),
    ),
    Mutant(
        "retired containers are not delivered to",
        "3 retired",
        "phases/switch.py",
        "if c.store == store and (c.until is None or now < c.until)]",
        "if c.store == store and c.until is None]",
        races=("switch off, publish x late read, queue",),
    ),
    Mutant(
        "a slow post believes its old settings",
        "3 grace",
        "app/social.py",
        "        if not created or not self.timelines.switch.still_holds(settings):\n",
        "        if not created:\n",
        _of(RULES, "test_a_post_that_takes_longer_than_the_grace_reads_the_settings_again"),
    ),
    Mutant(
        "a slow read believes its old settings",
        "3 retired",
        "phases/kept.py",
        "if not self.switch.still_holds(settings):",
        "if False:",
        _of(FOUND, "test_a_reader_who_is_stopped_while_phases_are_switched_misses_nothing"),
    ),
    Mutant(
        "two switches at once: one is lost",
        "3 switch",
        "phases/switch.py",
        '{"_id": DOCUMENT, "version": old.version}, {"$set": new.document()}',
        '{"_id": DOCUMENT}, {"$set": new.document()}',
        races=("switch x begin anew",),
    ),
    Mutant(
        "a slow switch is not made once more",
        "3 grace",
        "phases/switch.py",
        "            latest_s = began_s + grace_s - self._config.grace_s / 2  # `still_holds` takes the other half\n",
        "            latest_s = float('inf')\n",
        _of(FOUND, "test_a_switch_that_takes_longer_than_the_grace_loses_nothing"),
    ),
    # Rule 4
    Mutant(
        "an edge owes no backfill",
        "4 debt",
        "app/social.py",
        '{"_id": self._clock.new_id(), "debt": True}',
        '{"_id": self._clock.new_id()}',
        races=("follow x publish, queue",),
    ),
    Mutant(
        "a read does not look for debts",
        "4 debt",
        "phases/kept.py",
        "owed = any(found.values())",
        "owed = False",
        _of(RULES, "test_a_crash_between_the_edge_and_its_backfill_loses_nothing"),
    ),
    Mutant(
        "a debt is paid before the backfill is made",
        "4 debt, 8 order",
        "phases/timelines.py",
        "        for phase in self._one_per_store():\n            await phase.widen(reader, author)\n"
        "        await self.outbox.settled(collection, row)\n",
        "        await self.outbox.settled(collection, row)\n"
        "        for phase in self._one_per_store():\n            await phase.widen(reader, author)\n",
        races=("follow x read, queue",),
    ),
    Mutant(
        "the sweeper settles no debts",
        "4 debt",
        "workers/sweeper.py",
        "    await _settle_debts(timelines)\n    await timelines.sweep()\n",
        "    await timelines.sweep()\n",
        _of(RULES, "test_a_backfill_that_finds_memcached_away_is_made_later"),
    ),
    Mutant(
        "a backfill leaves a rebuild its lease",
        "4 backfill, 8 order",
        "phases/entries.py",
        'kept = await self._floors(container).find_one_and_update({"_id": reader}, {"$set": {"lease": ObjectId()}})',
        'kept = await self._floors(container).find_one({"_id": reader})',
        races=("follow x rebuild, queue",),
    ),
    Mutant(
        "a backfill leaves a list that is being built",
        "4 backfill, 8 order",
        "phases/lists.py",
        "                return\n        await self._memcached.delete(at)\n",
        "                return\n",
        races=("follow x return, cache",),
    ),
    # Rule 5
    Mutant(
        "a status names no phase that owes it",
        "5 outbox",
        "app/social.py",
        "pending=list(owed) or None,",
        "pending=None,",
        _of(RULES, "test_pending_is_read_first_and_empty_when_the_worker_has_been"),
    ),
    Mutant(
        "the list is read before what is pending",
        "5 pending first",
        "phases/lists.py",
        "        found = await together(self._db, **first) if first else {}\n        try:\n"
        "            return found, await self._read(at, reader, before, n)\n"
        "        except MemcachedDown:\n            return found, NOTHING\n",
        "        try:\n            kept = await self._read(at, reader, before, n)\n"
        "        except MemcachedDown:\n            kept = NOTHING\n"
        "        return (await together(self._db, **first) if first else {}), kept\n",
        races=("publish x read, cache",),
    ),
    Mutant(
        "only what one's own phase owes is pending",
        "5 outbox",
        "phases/kept.py",
        "self.outbox.look(self.switch.phases_of(self.keeps), before or LAST_ID)",
        "self.outbox.look((self.slug,), before or LAST_ID)",
        races=("publish x return, push",),
    ),
    Mutant(
        "a read looks at some of what is pending",
        "5 pending scan",
        "phases/outbox.py",
        "if len(pending) > self._scan:",
        "if False:",
        _of(FIXED, "test_what_strangers_have_pending_hides_nothing"),
    ),
    Mutant(
        "delivered after the first chunk",
        "5 outbox",
        "workers/jobs.py",
        "    if rest is None:\n",
        "    if True:\n",
        _of(FIXED, "test_the_last_follower_has_it_too"),
    ),
    Mutant(
        "the debt is cleared before the last chunk is delivered",
        "5 outbox, 8 order",
        "phases/p2_push.py",
        "        resume = await self.fan_out(status, None)\n",
        "        await self.outbox.delivered(self.slug, status.id)\n"
        "        resume = await self.fan_out(status, None)\n",
        races=("publish x return, push",),
    ),
    Mutant(
        "nobody looks for lost jobs",
        "5 sweeper",
        "workers/sweeper.py",
        "    await _queue_what_was_lost(timelines)\n    await _settle_debts(timelines)\n",
        "    await _settle_debts(timelines)\n",
        _of(RULES, "test_a_lost_enqueue_is_found_by_the_sweeper"),
    ),
    Mutant(
        "a post waits for its queue",
        "5 outbox",
        "app/stack/queue/delivery_queue.py",
        "        except redis.RedisError as error:\n            self._away_until = self._now_s() + AWAY_S\n",
        "        except ZeroDivisionError as error:\n            self._away_until = self._now_s() + AWAY_S\n",
        _of(RULES, "test_a_lost_enqueue_is_found_by_the_sweeper"),
    ),
    # Rule 6
    Mutant(
        "an entry can be delivered only once",
        "6 at least once",
        "app/stack/mongodb/write.py",
        ' if error["code"] != DUPLICATE_KEY]',
        "]",
        _of(RULES, "test_jobs_twice_out_of_order_and_half"),
    ),
    Mutant(
        "ids in a list are not told apart",
        "6 at least once",
        "phases/lists.py",
        "ids if len(set(ids)) == n else sorted({*ids}, reverse=True)",
        "ids",
        _of(FIXED, "test_a_list_counts_an_id_once"),
    ),
    Mutant(
        "a chunk leaves out who should have begun it",
        "6 chunks",
        "phases/p4_cache.py",
        "[str(readers[-1])] if len(found) > self.chunk",
        '[str(found[-1]["_id"])] if len(found) > self.chunk',
        _of(FIXED, "test_the_last_follower_has_it_too"),
    ),
    Mutant(
        "the same key posts what it says now",
        "6 idempotency",
        "app/social.py",
        "        if (row.text, row.audience) != (text, audience):\n",
        "        if False:\n",
        _of(RULES, "test_the_same_key_posts_once"),
    ),
    Mutant(
        "the same key brings back what was deleted",
        "6 idempotency",
        "app/social.py",
        "        if row.audience is None:\n            raise Conflict("
        '"the status that was posted with this key has been deleted")\n',
        "",
        _of(FIXED, "test_a_key_does_not_answer_with_a_tombstone"),
    ),
    Mutant(
        "a replay trusts that the earlier try has delivered",
        "5 outbox, 6 idempotency",
        "app/social.py",
        "        if not created or not self.timelines.switch.still_holds(settings):\n",
        "        if not self.timelines.switch.still_holds(settings):\n",
        _of(FIXED, "test_a_replay_delivers_what_the_earlier_try_did_not"),
    ),
    # Rule 8 and phase 4
    Mutant(
        "a list is set, whatever was put in front of it",
        "8 order, CAS",
        "phases/lists.py",
        "return ttl_s > 0 and await self._memcached.cas(at, value.packed(), version, ttl_s)",
        "await self._memcached.delete(at)\n"
        "        return ttl_s > 0 and await self._memcached.add(at, value.packed(), ttl_s)",
        races=("publish x return, cache",),
    ),
    Mutant(
        "everybody rebuilds at once",
        "8 lease",
        "phases/lists.py",
        "                if leased is None:\n                    return False\n",
        "                leased = leased or await self._memcached.gets(at)\n",
        _of(RULES, "test_of_two_rebuilds_one_fills_and_nothing_is_lost"),
    ),
    Mutant(
        "somebody else's placeholder is filled",
        "8 lease, token",
        "phases/lists.py",
        "            if collected.token != token:\n                return False\n",
        "",
        races=("follow x return, cache",),
    ),
    Mutant(
        "a floor is written without the lease",
        "8 lease",
        "phases/entries.py",
        '{"_id": reader, "lease": lease}, {"$set": {"floor": floor, "lease": ObjectId()}}',
        '{"_id": reader}, {"$set": {"floor": floor, "lease": ObjectId()}}',
        races=("follow x rebuild, queue",),
    ),
    Mutant(
        "the lease is taken after the query",
        "8 order",
        "phases/lists.py",
        REBUILT,
        "                active = await self._activity.mark(reader, await asked.followees())\n"
        "                part = await asked.recent(active.authors)\n"
        "                leased = await self._memcached.add(at, lease.packed(), self._config.lease_s)\n"
        "                if leased is None:\n                    return False\n"
        "                if await self._fill(at, lease.token, leased, part, active.until):\n",
        races=("publish x return, cache",),
    ),
    Mutant(
        "a reader is marked active after the query",
        "8 order",
        "phases/lists.py",
        REBUILT,
        "                leased = await self._memcached.add(at, lease.packed(), self._config.lease_s)\n"
        "                if leased is None:\n                    return False\n"
        "                part = await asked.recent(await asked.followees())\n"
        "                active = await self._activity.mark(reader, await asked.followees())\n"
        "                if await self._fill(at, lease.token, leased, part, active.until):\n",
        races=("publish x return of who was away",),
    ),
    Mutant(
        "a list lives longer than the activity that was marked",
        "phase 4: TTL <= active_until",
        "phases/lists.py",
        "expires_at_ms = min(self._now_ms() + ttl_ms, int(active_until.timestamp() * 1000))",
        "expires_at_ms = self._now_ms() + ttl_ms",
        _of(FOUND, "test_a_list_never_outlives_its_readers_activity_however_long_a_rebuild_takes"),
    ),
    Mutant(
        "a backfill gives a list another life",
        "phase 4: TTL <= active_until",
        "phases/lists.py",
        "        ttl_s = self._left_s(value)\n",
        "        ttl_s = self._config.timeline_ttl_s\n",
        _of(FIXED, "test_a_backfill_does_not_prolong_a_list"),
    ),
    Mutant(
        "a returning reader is marked for nobody's statuses",
        "phase 4: activity",
        "phases/activity.py",
        'noted = await grown(self._db, ACTIVE, reader, "authors", followees, "until", until)',
        'noted = await grown(self._db, ACTIVE, reader, "authors", [], "until", until)',
        _of(RULES, "test_whoever_is_away_is_skipped_and_complete_on_return"),
    ),
    Mutant(
        "the lease is taken after the reader is marked",
        "phase 4: activity, 8 order",
        "phases/lists.py",
        REBUILT,
        "                active = await self._activity.mark(reader, await asked.followees())\n"
        "                leased = await self._memcached.add(at, lease.packed(), self._config.lease_s)\n"
        "                if leased is None:\n                    return False\n"
        "                part = await asked.recent(active.authors)\n"
        "                if await self._fill(at, lease.token, leased, part, active.until):\n",
        races=("follow x return, cache",),
    ),
    Mutant(
        "whom a reader follows now is not delivered to them",
        "phase 4: activity",
        "phases/p4_cache.py",
        "        await self.activity.add(reader, author)\n",
        "",
        races=("follow x publish, cache",),
    ),
    Mutant(
        "a backfill ends before its author is delivered",
        "phase 4: activity, 8 order",
        "phases/p4_cache.py",
        "        await self.activity.add(reader, author)\n        await super().widen(reader, author)\n",
        "        await super().widen(reader, author)\n        await self.activity.add(reader, author)\n",
        races=("follow x publish, cache",),
    ),
    Mutant(
        "an author is removed after the edge",
        "phase 4: activity",
        "app/social.py",
        "            await remove_author(edges, reader, followee)\n\n"
        "        await change_edges(self._db, {reader}, end_follow)\n",
        "\n        await change_edges(self._db, {reader}, end_follow)\n"
        "        await remove_author(Transaction(self._db, None), reader, followee)\n",
        races=("unfollow x follow x publish, cache",),
    ),
    Mutant(
        "a return trusts what it has looked up long ago",
        "phase 4: activity",
        "phases/lists.py",
        "if self._clock.monotonic() - asked.began_s > self._config.timeline_ttl_s:",
        "if False:",
        races=("return that sleeps beyond the activity x follow",),
    ),
    Mutant(
        "members of a circle are taken for followers",
        "phase 4: activity",
        "phases/activity.py",
        'if await self._db["follows"].find_one({"follower": reader, "followee": author}, {"_id": 1}):',
        "if True:",
        _of(FIXED, "test_a_circle_fills_no_strangers_list"),
    ),
    Mutant(
        "who returns while they are swept is forgotten",
        "phase 4: activity",
        "phases/activity.py",
        '{"_id": {"$in": [row["_id"] for row in found]}, **over}',
        '{"_id": {"$in": [row["_id"] for row in found]}}',
        races=("sweep x return of who was away x publish",),
    ),
    Mutant(
        "a list that cannot take an id is kept",
        "phase 4: NS means delete",
        "app/stack/memcached.py",
        "        if refused:\n",
        "        if False:\n",
        ("tests/test_memcached.py",),
        marks="servers",
    ),
    # Blocks
    Mutant(
        "a follow does not look for a block",
        "2 blocks",
        "app/social.py",
        'if await edges["blocks"].find_one(_either_way("blocker", "blocked", reader, followee), {"_id": 1}):',
        "if False:",
        races=("block x follow",),
    ),
    Mutant(
        "a block leaves the follows",
        "2 blocks, 8 order",
        "app/social.py",
        '            await edges["follows"].delete_many(_either_way("follower", "followee", blocker, blocked))\n',
        "",
        races=("block x follow",),
    ),
    # The rest
    Mutant(
        "a placeholder is read as a list",
        "8 lease",
        "phases/lists.py",
        "        if value.kind == PLACEHOLDER:\n            return None\n",
        "",
        _of(RULES, "test_of_two_rebuilds_one_fills_and_nothing_is_lost"),
    ),
    Mutant(
        "one's own list is not delivered to",
        "2 visible, rule 1",
        "phases/p2_push.py",
        "        own = [] if resume else [status.user_id]\n",
        "        own: list[ObjectId] = []\n",
        _of(FIXED, "test_ones_own_list_is_delivered_to"),
    ),
    Mutant(
        "two first leases at once fail one of the reads",
        "8 lease",
        "phases/entries.py",
        "        except DuplicateKeyError:  # two first leases at once: the other one's rebuild will do\n",
        "        except ZeroDivisionError:\n",
        races=("rebuild x rebuild, queue",),
    ),
    Mutant(
        "a lost job is not replaced",
        "5 sweeper",
        "app/stack/queue/jobs.py",
        "    return _enqueue(queue, job_id, arguments)\n",
        "    return False\n",
        _of(FIXED, "test_a_job_that_was_lost_between_queue_and_worker_is_replaced"),
    ),
    Mutant(
        "what cannot be reached is delivered to nobody",
        "3 containers",
        "phases/switch.py",
        "            if not self._reaches(container) and container.until is None:\n",
        "            if False:\n",
        _of(FIXED, "test_a_worker_that_does_not_reach_the_lists_does_not_say_it_delivered"),
    ),
    Mutant(
        "lists on other nodes are read",
        "3 containers",
        "phases/switch.py",
        "if container is None or not self._reaches(container) or id_floor",
        "if container is None or id_floor",
        _of(FIXED, "test_lists_on_other_nodes_are_not_read"),
    ),
    Mutant(
        "those who are sent away keep their lists",
        "phase 4: activity",
        "phases/activity.py",
        "    await switch.change(None, without)\n",
        "",
        races=("sending away x publish x return",),
    ),
    # What a process remembers
    Mutant(
        "what is remembered of a reader outlives a change",
        "2 memory",
        "phases/kept.py",
        "        if known.version not in (None, version):\n",
        "        if False:\n",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "a change of edges does not raise the version",
        "2 memory",
        "app/edges.py",
        '            await inside[VERSIONS].update_one({"_id": reader}, {"$inc": {"version": 1}}, upsert=True)\n',
        "            pass\n",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "phase 1 remembers whom one followed",
        "2 memory",
        "phases/p1_query.py",
        "            if known.version == version_in(await rows(self._db, version)):\n",
        "            if True:\n",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "a page that was seen shows what has been deleted",
        "2 memory",
        "app/edges.py",
        "row._replace(audience=None) if id in gone else row",
        "row",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "a block changes nothing for the blocked",
        "2 memory",
        "app/social.py",
        "change_edges(self._db, {blocker, blocked}, end_follows)",
        "change_edges(self._db, {blocker}, end_follows)",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
)
