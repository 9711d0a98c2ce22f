"""The guards: what each is for, how it is taken away, and who must notice."""

from dataclasses import dataclass

RULES = "tests/contract/test_rules.py"
TIMELINE = "tests/contract/test_timeline.py"
JOBS = "tests/contract/test_jobs.py"
RESTORED = "tests/contract/test_restored.py"
LIMITS = "tests/contract/test_limits.py"
LIKES = "tests/contract/test_likes.py"
NAMES = "tests/contract/test_names.py"
MUTES = "tests/contract/test_mutes.py"
DEADLINES = "tests/test_deadlines.py"
HOSTILE = "tests/contract/test_hostile_jobs.py"
FOUND = "tests/oracle/test_found.py"
FIXED = "tests/mutations/test_guards.py"


@dataclass(frozen=True)
class Mutant:
    """`at`: a function or a class, by its dotted name. `old` occurs exactly once in it, and is replaced by `new` or,
    where `behind` is given, moved there.

    `tests`: pytest's own names of them, with these `marks`; `races`: those of the interleavings.
    """

    name: str
    rule: str
    at: str
    old: str
    new: str = ""
    tests: tuple[str, ...] = ()
    races: tuple[str, ...] = ()
    behind: str = ""
    marks: str = "not servers"


def _of(file: str, *tests: str) -> tuple[str, ...]:
    return tuple(f"{file}::{test}" for test in tests)


LOOK_UP = (  # in `Reading.page`
    "        answers = await together(self._db, **pending, **self._look(edges, seen), **kept.store.look(place))\n"
)
OR_REPEATED = (  # in `Social.follow`
    '                return await self._owing_row(edges, "follows", pair)\n'
    '            if row := await edges["follows"].find_one(pair, dict.fromkeys((*pair, "debt"), 1)):\n'
    "                return row\n"
    '            raise Forbidden(f"nobody can follow more than {limit:,} people")\n'
    "\n"
    "        limit = self._config.following_limit\n"
)
# The order of a return, in `HomeLists.come_back`
LEASE = (
    "            lease = await self.lease(container, returning.reader)\n"
    "            if lease is None:\n                return False  # somebody else is at it\n"
)
MARK = "            active = await self.recipients.admit(returning.reader, returning.followees)\n"
PUNCTUAL = (
    "            if self.clock.monotonic() - returning.began_s > self.ttl_s:\n"
    "                return False  # so late that whom they followed meanwhile may have been forgotten again\n"
)
FILL = "            if await self.fill(lease, await returning.recent(active.authors), active.until):\n"
FILL_LATER = "            if await self.fill(lease, recent, active.until):\n"
COME_BACK = LEASE + MARK + PUNCTUAL + FILL

# In `Switch.beat`
COMPARED = (
    '            {"_id": DOCUMENT, **({"pulse": {"$gte": known}} if known else {})},\n'
    '            {"$inc": {"pulse": 1}},\n'
    '            projection={"pulse": 1},\n'
    "            return_document=ReturnDocument.AFTER,\n"
    "        )\n"
    "        if counted is None:\n"
)

MUTANTS: tuple[Mutant, ...] = (
    # `visible`, clause by clause
    Mutant(
        "deleted statuses are shown to their author",
        "2 visible",
        "app.access.visible",
        "    if status.audience is None:  # deleted\n        return False\n",
        races=("delete x delivery x read, queue",),
    ),
    Mutant(
        "one's own statuses need no following",
        "2 visible",
        "app.access.visible",
        "    if author == reader.id:\n        return True\n",
        "    if author == reader.id:\n        return False\n",
        _of(TIMELINE, "test_the_audience_decides_who_sees_a_status"),
    ),
    Mutant(
        "an unfollowed author is still seen",
        "2 visible, rule 2",
        "app.access.visible",
        "if not follows or blocked:",
        "if blocked:",
        _of(TIMELINE, "test_what_is_taken_back_is_gone_at_the_next_read"),
    ),
    Mutant(
        "mutuals are all followers",
        "2 visible",
        "app.access.visible",
        "return reader.followed_by[author]",
        "return True",
        _of(TIMELINE, "test_the_audience_decides_who_sees_a_status"),
    ),
    Mutant(
        "a circle is all followers",
        "2 visible",
        "app.access.visible",
        "return in_circle",
        "return True",
        _of(TIMELINE, "test_the_audience_decides_who_sees_a_status"),
    ),
    Mutant(
        "who is muted is on the home timeline",
        "2 on_home",
        "app.access.on_home",
        " and (status.user_id == reader.id or not reader.relations[status.user_id].muted)",
        "",
        races=("mute x publish x read, cache",),
    ),
    Mutant(
        "a single status goes by on_home",
        "2 on_home",
        "app.access.visible_status",
        "list(rows.values()), visible)",
        "list(rows.values()), on_home)",
        _of(MUTES, "test_a_single_status_and_a_persons_page_show_who_is_muted"),
    ),
    Mutant(
        "a mute raises no version",
        "2 on_home",
        "app.social.Social.mute",
        "{reader}, lambda",
        "set(), lambda",
        _of(MUTES, "test_who_is_muted_leaves_the_timeline_at_the_next_read_and_comes_back"),
    ),
    Mutant(
        "the query looks at what the muted wrote",
        "2 on_home",
        "phases.p1_query.HomeTimeline.older_than",
        "self.following.heard()",
        "self.following.ids()",
        _of(MUTES, "test_phase_1_does_not_look_at_what_the_muted_wrote"),
    ),
    Mutant(
        "who is muted is left out of a list that is built",
        "3 floor",
        "phases.reading.Reading._rebuilt",
        "await following.ids()",
        "await following.heard()",
        _of(MUTES, "test_unmuting_owes_no_backfill"),
    ),
    Mutant(
        "who is muted is left out of entries that are built",
        "3 floor",
        "phases.comeback.Comeback.recent",
        "self._memory).ids()",
        "self._memory).heard()",
        _of(MUTES, "test_unmuting_owes_no_backfill"),
    ),
    # A page
    Mutant(
        "a page is not filled up again",
        "2 page",
        "phases.home.page.Filling.fill",
        "while len(shown) <= limit:",
        "for _ in range(1):",
        _of(FIXED, "test_a_page_is_filled_up_however_many_are_not_for_the_reader"),
    ),
    Mutant(
        "a status that is pending and in the list is shown twice",
        "2 page, rule 6",
        "phases.home.candidates.newest",
        "return [by_id[id] for id in sorted(by_id, reverse=True)[:n]]",
        "return sorted(entries, reverse=True)[:n]",
        races=("publish x read, queue",),
    ),
    # Rule 1
    Mutant(
        "a failed delivery fails the post",
        "1 save first",
        "phases.delivering.outbox.Outbox.posted",
        "except UNAVAILABLE as error:",
        "except ZeroDivisionError as error:",
        _of(FIXED, "test_a_delivery_that_fails_is_not_the_posters_business"),
    ),
    # Rule 3
    Mutant(
        "below the floor nothing is asked",
        "3 floor",
        "phases.home.candidates.KeptThenQuery.older_than",
        "if len(entries) < n and part.floor > FIRST_ID:",
        "if False:",
        _of(RULES, "test_a_page_crosses_the_floor"),
    ),
    Mutant(
        "phase 1 is asked again for what is above the floor",
        "3 floor",
        "phases.home.candidates.KeptThenQuery.older_than",
        "min(cursor, part.floor)",
        "cursor",
        _of(RULES, "test_a_page_crosses_the_floor"),
    ),
    Mutant(
        "entries below the floor are believed",
        "3 floor",
        "phases.home.candidates.Slice.older_than",
        "if self.floor <= entry.id < cursor]",
        "if entry.id < cursor]",
        _of(FIXED, "test_what_lies_below_the_floor_is_not_believed"),
    ),
    Mutant(
        "cutting a list does not raise its floor",
        "3 floor",
        "phases.keeping.lists.Value.with_ids",
        "floor=ids[cap - 1] if len(ids) > cap else self.floor)",
        "floor=self.floor)",
        races=("trim on read x delivery",),
    ),
    Mutant(
        "cutting entries does not raise the floor",
        "3 floor",
        "phases.keeping.entries.Entries.cut",
        '        if "floor" in kept:\n            change["$max"]["floor"] = bound\n',
        tests=_of(RULES, "test_sweeping_cuts_to_the_cap_and_loses_nothing"),
    ),
    Mutant(
        "a rebuild forgets what was cut",
        "3 floor",
        "phases.keeping.entries.Entries.rebuild",
        'floor = max(recent.floor, (before or {}).get("cut", FIRST_ID))',
        "floor = recent.floor",
        races=("trim x refresh",),
    ),
    Mutant(
        "a cut does not notice a rebuild",
        "3 floor, 8 order",
        "phases.keeping.entries.Entries.cut",
        '{"_id": reader, "lease": kept.get("lease")}',
        '{"_id": reader}',
        races=("trim x refresh", "trim x rebuild"),
    ),
    Mutant(
        "a rebuild does not tell a cut that there is a floor now",
        "3 floor, 8 order",
        "phases.keeping.entries.Entries.rebuild",
        '{"$set": {"floor": floor, "lease": ObjectId()}}',
        '{"$set": {"floor": floor}}',
        races=("trim x rebuild",),
    ),
    Mutant(
        "a cut that was refused deletes all the same",
        "3 floor, 8 order",
        "phases.keeping.entries.Entries.cut",
        "if cut.matched_count or cut.upserted_id:",
        "if True:",
        races=("trim x refresh", "trim x rebuild"),
    ),
    Mutant(
        "a cut deletes before it raises the floor",
        "3 floor, 8 order",
        "phases.keeping.entries.Entries.cut",
        "        change: dict[str, Any] = {",
        '        await self._entries(container).delete_many({"_id": {**whole, "$lt": entry_key(reader, bound)}})\n'
        "        change: dict[str, Any] = {",
        races=("trim x read",),
    ),
    Mutant(
        "a long backfill leaves a gap, lists",
        "3 floor, 4 backfill",
        "phases.keeping.lists.Lists.merge",
        "if len(entries) >= self.config.cap:",
        "if False:",
        _of(FIXED, "test_a_long_backfill_into_an_empty_list_leaves_no_gap"),
    ),
    Mutant(
        "a long backfill leaves a gap, entries",
        "3 floor, 4 backfill",
        "phases.keeping.entries.Entries.merge",
        "if len(entries) >= self.config.cap:",
        "if False:",
        _of(RULES, "test_a_long_backfill_raises_the_floor_instead_of_leaving_a_gap"),
    ),
    Mutant(
        "a long backfill gives a floor to who has none",
        "3 floor",
        "phases.keeping.entries.Entries.merge",
        '{"_id": reader, "floor": {"$exists": True}}, raised)',
        '{"_id": reader}, raised)',
        _of(FOUND, "test_a_floor_that_was_forgotten_stays_forgotten"),
    ),
    Mutant(
        "what is switched on is read at once",
        "3 grace",
        "phases.delivering.switch.Switch.readable",
        " or id_floor(self._clock.now()) <= container.since:",
        ":",
        races=("switch on x publish x early return, cache",),
    ),
    Mutant(
        "what is switched off is owed nothing any more",
        "3 leaving",
        "phases.delivering.settings.Settings.owed_by",
        "return (*self.delivering, *(slug for slug, until in self.leaving.items() if now < until))",
        "return self.delivering",
        races=("switch off, publish x late read, queue",),
    ),
    Mutant(
        "retired containers are not delivered to",
        "3 retired",
        "phases.delivering.switch.Switch.writable",
        "(c.until is None or now < c.until)]",
        "c.until is None]",
        races=("switch off, publish x late read, queue",),
    ),
    Mutant(
        "a slow post believes its old settings",
        "3 grace",
        "phases.delivering.outbox.Outbox.posted",
        "if again or not self._switch.still_holds(owed.settings):",
        "if again:",
        _of(RULES, "test_a_post_that_takes_longer_than_the_grace_reads_the_settings_again"),
    ),
    Mutant(
        "a slow read believes its old settings",
        "3 retired",
        "phases.reading.Reading.page",
        "if not self._switch.still_holds(settings):",
        "if False:",
        _of(FOUND, "test_a_reader_who_is_stopped_while_phases_are_switched_misses_nothing"),
    ),
    Mutant(
        "two switches at once: one is lost",
        "3 switch",
        "phases.delivering.switch.Switch._swap",
        '{"_id": DOCUMENT, "version": old.version}',
        '{"_id": DOCUMENT}',
        races=("switch x begin anew",),
    ),
    Mutant(
        "a slow switch is not made once more",
        "3 grace",
        "phases.delivering.switch.Switch.change",
        "latest_s = began_s + grace_s - self._config.grace_s / 2",
        "latest_s = float('inf')",
        _of(FOUND, "test_a_switch_that_takes_longer_than_the_grace_loses_nothing"),
    ),
    # Rule 4
    Mutant(
        "an edge owes no backfill",
        "4 debt",
        "app.social.Social._owing_row",
        '{"_id": self._clock.new_id(), "debt": True}',
        '{"_id": self._clock.new_id()}',
        races=("follow x publish, queue",),
    ),
    Mutant(
        "a read does not look for debts",
        "4 debt",
        "phases.reading.Reading.page",
        "if look.backfill_owed:",
        "if False:",
        _of(RULES, "test_a_crash_between_the_edge_and_its_backfill_loses_nothing"),
    ),
    Mutant(
        "a debt is paid before the backfill is made",
        "4 debt, 8 order",
        "phases.delivering.outbox.Outbox.settle",
        "        for keeper in self._keepers:\n            await keeper.widen(reader, author)\n",
        behind='        await self._db[collection].update_one({"_id": row["_id"]}, {"$unset": {"debt": ""}})\n',
        races=("follow x read, queue",),
    ),
    Mutant(
        "the sweeper settles no debts",
        "4 debt",
        "workers.sweeper.sweep",
        "    await _make_backfills(timelines)\n",
        tests=_of(RULES, "test_a_backfill_that_finds_memcached_away_is_made_later"),
    ),
    Mutant(
        "a backfill leaves a rebuild its lease",
        "4 backfill, 8 order",
        "phases.keeping.entries.Entries.merge",
        'find_one_and_update({"_id": reader}, {"$set": {"lease": ObjectId()}})',
        'find_one({"_id": reader})',
        races=("follow x rebuild, queue",),
    ),
    Mutant(
        "a backfill leaves a list that is being built",
        "4 backfill, 8 order",
        "phases.keeping.lists.Lists.merge",
        "        await self.memcached.delete(at)\n",
        races=("follow x return, cache",),
    ),
    # Rule 5
    Mutant(
        "a status names no consumer that owes it",
        "5 outbox",
        "app.social.Social.post",
        "pending=list(owed.consumers) or None,",
        "pending=None,",
        _of(RULES, "test_pending_is_read_first_and_empty_when_the_worker_has_been"),
    ),
    Mutant(
        "a consumer of another version is owed nothing",
        "5 outbox",
        "phases.delivering.outbox.Outbox._owed_by",
        "if name not in self._idle",
        "if name in self.consumers",
        _of(RULES, "test_a_consumer_that_this_program_does_not_know_is_still_owed"),
    ),
    Mutant(
        "a consumer of another version fails the post",
        "1 save first, 5 outbox",
        "phases.delivering.outbox.Outbox.posted",
        "if name not in self.consumers:",
        "if False:",
        _of(RULES, "test_a_consumer_that_this_program_does_not_know_is_still_owed"),
    ),
    Mutant(
        "a phase that keeps nothing is owed for ever",
        "5 outbox",
        "phases.delivering.outbox.Outbox._owed_by",
        " if name not in self._idle",
        tests=_of(RULES, "test_a_consumer_that_this_program_does_not_know_is_still_owed"),
    ),
    Mutant(
        "the list is read before what is pending",
        "5 pending first",
        "phases.reading.Reading.page",
        LOOK_UP + "        part = await kept.store.read(place, answers)\n",
        "        early = await kept.store.read(place, {}) if kept.store.in_memory else None\n"
        + LOOK_UP
        + "        part = early or await kept.store.read(place, answers)\n",
        races=("publish x read, cache",),
    ),
    Mutant(
        "what the other phase of a store owes is not pending",
        "5 outbox",
        "phases.reading.Reading._pending",
        "self._switch.phases_of(kept.name)",
        "self._switch.phases_of(kept.name)[-1:]",
        races=("publish x return, push",),
    ),
    Mutant(
        "a look that is full vouches for everything",
        "10 backlog",
        "phases.delivering.outbox.Outbox.waiting",
        "max(full, default=FIRST_ID)",
        "FIRST_ID",
        _of(FIXED, "test_what_is_pending_is_looked_through_however_much_is_not_for_the_reader"),
    ),
    Mutant(
        "what lies below a full look is believed",
        "10 backlog",
        "phases.home.candidates.Slice.with_waiting",
        "if entry.id >= down_to]",
        "if True]",
        _of(FIXED, "test_what_is_pending_is_looked_through_however_much_is_not_for_the_reader"),
    ),
    Mutant(
        "pending statuses are those of followees that have changed",
        "10 backlog",
        "phases.reading.Reading.page",
        "if edges.version not in (None, look.version):",
        "if edges.version not in (None, look.version) and not own:",
        _of(FIXED, "test_the_backlog_of_somebody_followed_meanwhile_is_looked_at"),
    ),
    Mutant(
        "a read looks at some of what is pending",
        "10 backlog",
        "phases.reading.Reading.page",
        "if look.waiting.floor > FIRST_ID and not own:",
        "if False:",
        _of(FIXED, "test_what_strangers_have_pending_hides_nothing"),
    ),
    Mutant(
        "delivered after the first chunk",
        "5 outbox",
        "phases.p3_queue.status_deliver",
        "    for status, last in walked.further.items():\n"
        "        await delivery.queue.offer(delivery.name, status, last)\n",
        "    walked.ended.extend(walked.further)\n",
        _of(FIXED, "test_the_last_follower_has_it_too"),
    ),
    Mutant(
        "the debt is cleared before the last chunk is delivered",
        "5 outbox, 8 order",
        "phases.p2_push.deliver_status",
        "    last = await put_on_timelines(delivery, status, None)\n"
        "    while last:\n        last = await put_on_timelines(delivery, status, last)\n",
        behind="    await delivery.done(status.id)\n",
        races=("publish x return, push",),
    ),
    Mutant(
        "nobody looks for lost jobs",
        "5 sweeper",
        "workers.sweeper.sweep",
        "    await _queue_what_was_lost(timelines)\n",
        tests=_of(RULES, "test_a_lost_enqueue_is_found_by_the_sweeper"),
    ),
    Mutant(
        "a post waits for its queue",
        "5 outbox",
        "app.stack.queue.delivery_queue.DeliveryQueue._offer_unless_away",
        "except redis.RedisError as error:",
        "except ZeroDivisionError as error:",
        _of(RULES, "test_a_lost_enqueue_is_found_by_the_sweeper"),
    ),
    Mutant(
        "a lost job is not replaced",
        "5 sweeper",
        "app.stack.queue.jobs.offer",
        "    return _enqueue(queue, job_id, arguments)\n",
        "    return False\n",
        _of(FIXED, "test_a_job_that_was_lost_between_queue_and_worker_is_replaced"),
    ),
    Mutant(
        "what was done beside another job is skipped for ever",
        "5 outbox, 6 at least once",
        "workers.jobs.fan_out",
        "        del runtime.done[work]\n",
        tests=_of(JOBS, "test_the_jobs_of_what_was_delivered_beside_another_do_nothing_once"),
    ),
    Mutant(
        "what failed beside a job counts as done",
        "5 outbox",
        "workers.jobs._step",
        "for other in done if",
        "for other in [*done, *failed] if",
        _of(JOBS, "test_a_job_that_always_fails_is_buried_alone_and_can_be_dug_out"),
    ),
    Mutant(
        "a job does not fail with its own delivery",
        "5 outbox",
        "workers.jobs._step",
        "        raise error\n",
        "        pass\n",
        _of(JOBS, "test_a_job_that_always_fails_is_buried_alone_and_can_be_dug_out"),
    ),
    Mutant(
        "a delivery that failed counts as made",
        "5 outbox",
        "phases.delivering.delivery.Walked.side_by_side",
        "self.failed[id] = end",
        "self.ended.append(id)",
        _of(JOBS, "test_a_job_that_always_fails_is_buried_alone_and_can_be_dug_out"),
    ),
    Mutant(
        "a job waits for whatever hangs beside it",
        "7 small before large",
        "phases.delivering.delivery.Walked.side_by_side",
        "timeout=PATIENCE_S",
        "timeout=None",
        _of(JOBS, "test_a_delivery_that_hangs_beside_a_job_delays_no_other"),
    ),
    Mutant(
        "a large fan-out keeps the worker while others wait",
        "7 small before large",
        "workers.jobs._step",
        " and not await queue.is_somebody_waiting()",
        tests=_of(JOBS, "test_a_job_walks_on_while_nobody_waits"),
    ),
    Mutant(
        "what was deleted is owed for ever",
        "5 outbox",
        "phases.p3_queue.status_deliver",
        "        walked.ended += [s.id for s in statuses if not s.audience]  # deleted meanwhile\n",
        tests=_of(RULES, "test_a_deleted_status_is_delivered_to_nobody_and_owed_no_longer"),
    ),
    # Rule 6
    Mutant(
        "an entry can be delivered only once",
        "6 at least once",
        "app.stack.mongodb.write._unless_there",
        ' if error["code"] != DUPLICATE_KEY]',
        "]",
        _of(RULES, "test_jobs_twice_out_of_order_and_half"),
    ),
    Mutant(
        "ids in a list are not told apart",
        "6 at least once",
        "phases.keeping.lists.Value.unpacked",
        "ids if len(set(ids)) == n else sorted({*ids}, reverse=True)",
        "ids",
        _of(FIXED, "test_a_list_counts_an_id_once"),
    ),
    Mutant(
        "a step leaves out its last recipient",
        "6 chunks",
        "phases.p2_push.put_on_timelines",
        "author + followers,",
        "author + followers[:-1],",
        _of(FIXED, "test_the_last_follower_has_it_too"),
    ),
    Mutant(
        "the same key posts what it says now",
        "6 idempotency",
        "app.social.Social._posted_before",
        "if (row.text, row.audience) != (text, audience):",
        "if False:",
        _of(RULES, "test_the_same_key_posts_once"),
    ),
    Mutant(
        "the same key brings back what was deleted",
        "6 idempotency",
        "app.social.Social._posted_before",
        "if row.audience is None:",
        "if False:",
        _of(FIXED, "test_a_key_does_not_answer_with_a_tombstone"),
    ),
    Mutant(
        "a replay trusts that the earlier try has delivered",
        "5 outbox, 6 idempotency",
        "phases.delivering.outbox.Outbox.posted",
        "if again or not self._switch.still_holds(owed.settings):",
        "if not self._switch.still_holds(owed.settings):",
        _of(FIXED, "test_a_replay_delivers_what_the_earlier_try_did_not"),
    ),
    # Rule 8 and phase 4
    Mutant(
        "a list is set, whatever was put in front of it",
        "8 order, CAS",
        "phases.keeping.lists.Lists._swap",
        "return ttl_s > 0 and await self.memcached.cas(at, value.packed(), version, ttl_s)",
        "await self.memcached.delete(at)\n"
        "        return ttl_s > 0 and await self.memcached.add(at, value.packed(), ttl_s)",
        races=("publish x return, cache",),
    ),
    Mutant(
        "everybody rebuilds at once",
        "8 lease",
        "phases.keeping.lists.Lists.lease",
        "return Lease(at, token, found) if found else None",
        "return Lease(at, token, found or await self.memcached.gets(at))",
        _of(RULES, "test_of_two_rebuilds_one_fills_and_nothing_is_lost"),
    ),
    Mutant(
        "somebody else's placeholder is filled",
        "8 lease, token",
        "phases.keeping.lists.Lists.fill",
        "if collected.token != lease.token:",
        "if False:",
        races=("follow x return, cache",),
    ),
    Mutant(
        "a placeholder is read as a list",
        "8 lease",
        "phases.keeping.lists.Lists._read",
        " or found[0].kind == PLACEHOLDER:",
        ":",
        _of(RULES, "test_of_two_rebuilds_one_fills_and_nothing_is_lost"),
    ),
    Mutant(
        "a floor is written without the lease",
        "8 lease",
        "phases.keeping.entries.Entries.rebuild",
        '{"_id": reader, "lease": lease}',
        '{"_id": reader}',
        races=("follow x rebuild, queue",),
    ),
    Mutant(
        "two first leases at once fail one of the reads",
        "8 lease",
        "phases.keeping.entries.Entries.rebuild",
        "except DuplicateKeyError:",
        "except ZeroDivisionError:",
        races=("rebuild x rebuild, queue",),
    ),
    Mutant(
        "the lease is taken after the query",
        "8 order",
        "phases.p4_cache.HomeLists.come_back",
        COME_BACK,
        MARK + "            recent = await returning.recent(active.authors)\n" + LEASE + FILL_LATER,
        races=("publish x return, cache",),
    ),
    Mutant(
        "a reader is marked active after the query",
        "8 order",
        "phases.p4_cache.HomeLists.come_back",
        COME_BACK,
        LEASE + "            recent = await returning.recent(returning.followees)\n" + MARK + FILL_LATER,
        races=("publish x return of who was away",),
    ),
    Mutant(
        "the lease is taken after the reader is marked",
        "phase 4: activity, 8 order",
        "phases.p4_cache.HomeLists.come_back",
        LEASE,
        behind=MARK,
        races=("follow x return, cache",),
    ),
    Mutant(
        "a return trusts what it has looked up long ago",
        "phase 4: activity",
        "phases.p4_cache.HomeLists.come_back",
        "if self.clock.monotonic() - returning.began_s > self.ttl_s:",
        "if False:",
        races=("return that sleeps beyond the activity x follow",),
    ),
    Mutant(
        "a list lives longer than the activity that was marked",
        "phase 4: TTL <= active_until",
        "phases.keeping.lists.Lists._renewed",
        "if active_until:",
        "if False:",
        _of(FOUND, "test_a_list_never_outlives_its_readers_activity_however_long_a_rebuild_takes"),
    ),
    Mutant(
        "a list that has expired by our clock is read",
        "phase 4: two clocks",
        "phases.keeping.lists.Lists._gets",
        "self._is_over(value := Value.unpacked(found[0])):",
        "not (value := Value.unpacked(found[0])):",
        _of(RULES, "test_a_list_that_expired_while_the_machine_slept_is_cold"),
    ),
    Mutant(
        "a list that Memcached still has is not replaced",
        "phase 4: two clocks",
        "phases.keeping.lists.Lists.lease",
        "if over and",
        "if False and",
        _of(RULES, "test_a_list_that_expired_while_the_machine_slept_is_cold"),
    ),
    Mutant(
        "a list that expired on the way is renewed",
        "phase 4: two clocks",
        "phases.keeping.lists.Lists._read",
        "if not self._is_over(value):",
        "if True:",
        races=("renewal that sleeps beyond the activity x publish",),
    ),
    Mutant(
        "a backfill leaves a list that has expired",
        "phase 4: two clocks, 8 order",
        "phases.keeping.lists.Lists.merge",
        "            if value.kind == PLACEHOLDER or self._is_over(value):\n                break\n",
        "            if self._is_over(value):\n                return\n"
        "            if value.kind == PLACEHOLDER:\n                break\n",
        races=("renewal that sleeps beyond the list x follow", "return that sleeps beyond its lease x follow"),
    ),
    Mutant(
        "memory of another history is believed",
        "phase 4: restore",
        "phases.delivering.switch.Switch.beat",
        ', **({"pulse": {"$gte": known}} if known else {})}',
        "}",
        _of(RESTORED, "test_a_sweeper_notices"),
    ),
    Mutant(
        "the pulse goes on before lists begin anew",
        "phase 4: restore, 8 order",
        "phases.delivering.switch.Switch.beat",
        COMPARED,
        COMPARED.replace(', **({"pulse": {"$gte": known}} if known else {})', "").replace(
            "counted is None", 'counted["pulse"] <= known'
        ),
        races=("pulse x pulse after a restore",),
    ),
    Mutant(
        "a pulse outruns the memory that is away",
        "phase 4: restore",
        "phases.delivering.switch.Switch.beat",
        "if None in pulses:",
        "if False:",
        _of(RESTORED, "test_a_pulse_that_goes_on_without_memcached_is_compared_with_it_afterwards"),
    ),
    Mutant(
        "a database is not compared when it is opened",
        "phase 4: restore",
        "phases.delivering.switch.Switch.open",
        "        await self.beat()\n",
        tests=_of(RESTORED, "test_whoever_opens_the_database_notices"),
    ),
    Mutant(
        "a backfill gives a list another life",
        "phase 4: TTL <= active_until",
        "phases.keeping.lists.Lists._swap",
        "ttl_s = self._left_s(value)",
        "ttl_s = self.ttl_s",
        _of(FIXED, "test_a_backfill_does_not_prolong_a_list"),
    ),
    Mutant(
        "a returning reader is marked for nobody's statuses",
        "phase 4: activity",
        "phases.keeping.activity.ActiveReaders.admit",
        '"authors", followees,',
        '"authors", [],',
        _of(RULES, "test_whoever_is_away_is_skipped_and_complete_on_return"),
    ),
    Mutant(
        "whom a reader follows now is not delivered to them",
        "phase 4: activity",
        "phases.keeping.activity.ActiveReaders.widen",
        "await self.admit(reader, [author])",
        "pass",
        races=("follow x publish, cache",),
    ),
    Mutant(
        "a backfill ends before its author is delivered",
        "phase 4: activity, 8 order",
        "phases.delivering.kept.Kept.widen",
        "        await self.recipients.widen(reader, author)\n",
        behind="            await self.store.merge(container, reader, author_ids)\n",
        races=("follow x publish, cache",),
    ),
    Mutant(
        "an author is removed after the edge",
        "phase 4: activity",
        "app.social.Social.unfollow",
        "            await self.outbox.narrowed(edges, reader, followee)\n\n"
        "        await change_edges(self._db, {reader}, end_follow)\n",
        "\n        await change_edges(self._db, {reader}, end_follow)\n"
        "        await self.outbox.narrowed(Transaction(self._db, None), reader, followee)\n",
        races=("unfollow x follow x publish, cache",),
    ),
    Mutant(
        "members of a circle are taken for followers",
        "phase 4: activity",
        "phases.keeping.activity.ActiveReaders.widen",
        'if await self.db["follows"].find_one({"follower": reader, "followee": author}, {"_id": 1}):',
        "if True:",
        _of(FIXED, "test_a_circle_fills_no_strangers_list"),
    ),
    Mutant(
        "who returns while they are swept is forgotten",
        "phase 4: activity",
        "phases.keeping.activity.ActiveReaders.sweep",
        '{"_id": {"$in": [row["_id"] for row in gone]}, **over}',
        '{"_id": {"$in": [row["_id"] for row in gone]}}',
        races=("sweep x return of who was away x publish",),
    ),
    Mutant(
        "those who are sent away keep their lists",
        "phase 4: activity",
        "phases.delivering.away.send_away",
        "    await switch.change(Wish(delivering=[slug for slug in before if slug not in away]))\n",
        races=("sending away x publish x return",),
    ),
    Mutant(
        "a list that cannot take an id is kept",
        "phase 4: NS means delete",
        "app.stack.memcached",
        "            if refused:\n",
        "            if False:\n",
        ("tests/test_memcached.py",),
        marks="servers",
    ),
    # Containers
    Mutant(
        "what cannot be reached is delivered to nobody",
        "3 containers",
        "phases.delivering.switch.Switch.writable",
        "if not self._reaches(container) and container.until is None:",
        "if False:",
        _of(FIXED, "test_a_worker_that_does_not_reach_the_lists_does_not_say_it_delivered"),
    ),
    Mutant(
        "lists on other nodes are read",
        "3 containers",
        "phases.delivering.switch.Switch.readable",
        " or not self._reaches(container)",
        "",
        _of(FIXED, "test_lists_on_other_nodes_are_not_read"),
    ),
    # What grows is cleaned
    Mutant(
        "what was switched off stays until the next switch",
        "3 containers",
        "phases.delivering.kept.Kept.sweep",
        "settings.in_use(self.store.clock.now())",
        "settings.containers",
        _of(RULES, "test_what_was_switched_off_is_dropped_and_waits_for_no_other_switch"),
    ),
    Mutant(
        "what somebody may still be reading is dropped",
        "3 retired",
        "phases.delivering.settings.Settings.in_use",
        "c.until is None or ended < c.until",
        "c.until is None",
        _of(RULES, "test_what_was_switched_off_is_dropped_and_waits_for_no_other_switch"),
    ),
    Mutant(
        "what an attempt has returned stays in Redis",
        "what grows",
        "app.stack.queue.worker._Worker.handle_job_retry",
        "        Result.delete_all(job)\n",
        tests=_of(JOBS, "test_of_a_delivery_that_was_tried_again_nothing_stays_in_redis"),
    ),
    Mutant(
        "why a job was buried stays when it is dug out",
        "what grows",
        "app.stack.queue.jobs.retry_dead_letters",
        "                Result.delete_all(job)  # why it was buried; should it be again, RQ says so again\n",
        tests=_of(JOBS, "test_of_a_delivery_that_was_tried_again_nothing_stays_in_redis"),
    ),
    Mutant(
        "a pulse stays long after its lists",
        "what grows",
        "phases.keeping.lists.Lists.keep_pulse",
        "ttl_s = min(self.ttl_s + self.config.activity_slack_s, MEMCACHED_LONGEST_TTL_S)",
        "ttl_s = MEMCACHED_LONGEST_TTL_S",
        ("tests/test_soak.py",),
    ),
    # Blocks
    Mutant(
        "a follow does not look for a block",
        "2 blocks",
        "app.social.Social.follow",
        'if await edges["blocks"].find_one(_either_way("blocker", "blocked", reader, followee), {"_id": 1}):',
        "if False:",
        races=("block x follow",),
    ),
    Mutant(
        "the limit of follows is looked at before the change",
        "limits",
        "app.social.Social.follow",
        'if await edges["follows"].count({"follower": reader}, limit) < limit:\n' + OR_REPEATED,
        "if there < limit:\n"
        + OR_REPEATED
        + '        there = await self._db["follows"].count_documents({"follower": reader}, limit=limit)\n',
        races=("follow x follow at the limit",),
    ),
    Mutant(
        "who follows as many as they may cannot repeat a follow",
        "limits",
        "app.social.Social.follow",
        'if row := await edges["follows"].find_one(pair, dict.fromkeys((*pair, "debt"), 1)):',
        "if row := None:",
        _of(LIMITS, "test_a_follow_is_repeated_at_the_limit"),
    ),
    Mutant(
        "a block leaves the follows",
        "2 blocks, 8 order",
        "app.social.Social.block",
        '            await edges["follows"].delete_many(_either_way("follower", "followee", blocker, blocked))\n',
        races=("block x follow",),
    ),
    # What a process remembers
    Mutant(
        "what is remembered of a reader outlives a change",
        "2 memory",
        "phases.reading.Reading.page",
        "if edges.version not in (None, look.version):",
        "if False:",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "a change of edges does not raise the version",
        "2 memory",
        "app.edges.change_edges",
        'await inside[VERSIONS].update_one({"_id": reader}, {"$inc": {"version": 1}}, upsert=True)',
        "pass",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "phase 1 remembers whom one followed",
        "2 memory",
        "app.edges.Following._remembered",
        "if edges.version != version:",
        "if False:",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "a page that was seen shows what has been deleted",
        "2 memory",
        "phases.home.memory.as_now",
        'row._replace(audience=None) if now["deleted"] else ',
        "",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    Mutant(
        "a page that was seen shows the likes of then",
        "11 memory",
        "phases.home.memory.as_now",
        "if row.likes or row.you_like:",
        "if False:",
        _of(LIKES, "test_likes_are_counted_on_the_next_page_of_everybody"),
    ),
    Mutant(
        "a page that was seen does not hear of new likes",
        "11 memory",
        "phases.home.memory.changes_of",
        ', {"likes": {"$gt": 0}}',
        "",
        _of(LIKES, "test_likes_are_counted_on_the_next_page_of_everybody"),
    ),
    # Names
    Mutant(
        "remembered names are not checked",
        "11 names",
        "app.names.Names.of",
        " and version is not None and version <= since",
        "",
        races=("rename x page, cache",),
    ),
    Mutant(
        "a changed name has no version beside it",
        "11 names",
        "app.social.Social.rename",
        ', "renamed": now["version"]',
        "",
        races=("rename x page, cache",),
    ),
    Mutant(
        "a changed name raises no version",
        "11 names",
        "app.social.Social.rename",
        '            now = await inside[VERSIONS].find_one({"_id": NAMES}, {"version": 1})\n'
        '            assert now, "it has just been raised"\n',
        '            now = {"version": 1}\n'
        '            await inside[VERSIONS].update_one({"_id": NAMES}, {"$set": {"version": 0}}, upsert=False)\n',
        races=("rename x page, cache",),
    ),
    Mutant(
        "names of an earlier look are remembered as later ones",
        "11 names",
        "app.names.Names._keep",
        "if self._version is not None and not (since is not None and since <= self._version <= version):",
        "if False:",
        _of(NAMES, "test_a_look_that_began_before_another_does_not_vouch_for_its_names"),
    ),
    Mutant(
        "renamed people are not asked for",
        "11 names",
        "app.names._look",
        "    if since is not None:\n",
        "    if False:\n",
        races=("rename x page, cache",),
    ),
    # Likes
    Mutant(
        "a repeated like counts again",
        "11 likes",
        "app.social.Social.like",
        '            if await inside["likes"].find_one(key, {"_id": 1}):\n                return\n',
        races=("like x the same like",),
    ),
    Mutant(
        "a like is stored beside its count",
        "11 likes",
        "app.social.Social.like",
        'await inside["likes"].insert_one(key)',
        'await self._db["likes"].insert_one(dict(key))',
        races=("like x the same like",),
    ),
    Mutant(
        "what is deleted is liked",
        "11 likes",
        "app.social.Social._count",
        '"_id": id, "deleted": False',
        '"_id": id',
        races=("like x delete x read, cache",),
    ),
    Mutant(
        "a deleted status keeps its count",
        "11 likes",
        "app.social.Social.delete",
        ', "likes": ""',
        "",
        _of(LIKES, "test_a_deleted_status_has_no_likes"),
    ),
    Mutant(
        "a like that there is not is taken back",
        "11 likes",
        "app.social.Social.unlike",
        'if liked := await inside["likes"].delete_one(key):',
        'liked = await inside["likes"].delete_one(key)\n            if True:',
        races=("like x unlike",),
    ),
    Mutant(
        "what cannot be seen is liked",
        "2 likes",
        "app.social.Social.like",
        "        await self.status(reader, id)\n",
        "",
        _of(LIKES, "test_what_cannot_be_seen_cannot_be_liked"),
    ),
    Mutant(
        "a like ends only where the status is seen",
        "11 likes",
        "app.social.Social.unlike",
        "        if not await self._in_turn(id, where_liked):\n            await self.status(reader, id)\n",
        "        await self.status(reader, id)\n        await self._in_turn(id, where_liked)\n",
        _of(LIKES, "test_a_like_can_be_taken_back_from_what_can_be_seen_no_more"),
    ),
    Mutant(
        "everybody likes one status at once",
        "11 likes",
        "app.social.Social._turn",
        "self._turns.setdefault(id, asyncio.Lock())",
        "asyncio.Lock()",
        _of(LIKES, "test_many_likes_at_once_are_counted_one_by_one"),
        marks="servers",
    ),
    Mutant(
        "a block changes nothing for the blocked",
        "2 memory",
        "app.social.Social.block",
        "change_edges(self._db, {blocker, blocked}, end_follows)",
        "change_edges(self._db, {blocker}, end_follows)",
        _of(FIXED, "test_what_is_remembered_of_a_reader_ends_with_any_change"),
    ),
    # Servers that hang
    Mutant(
        "a request waits for as long as a server hangs",
        "one deadline",
        "app.stack.deadline.within",
        "asyncio.timeout(seconds)",
        "asyncio.timeout(None)",
        _of(DEADLINES, "test_a_request_ends_with_503_while_what_it_waits_for_hangs"),
    ),
    Mutant(
        "who waits for a thread tries Memcached too",
        "one deadline",
        "app.stack.memcached.MemcachedNodes._call",
        "            self._check(node)\n            try:\n",
        "            try:\n",
        _of(DEADLINES, "test_whoever_waits_for_a_thread_while_memcached_hangs_does_not_try_it_too"),
    ),
    # What others write into our servers
    Mutant(
        "a job runs whatever function it names",
        "jobs are ours",
        "app.stack.queue.strict._call",
        "if not isinstance(function, str) or function not in FUNCTIONS:",
        "if False:",
        _of(HOSTILE, "test_nothing_is_run_but_our_own_functions"),
    ),
    Mutant(
        "a job is as RQ reads it",
        "jobs are ours",
        "app.stack.queue.strict.StrictJob.refresh",
        "        self.restore(dict(zip(FIELDS, values, strict=True)))\n",
        "        Job.refresh(self)\n",
        _of(HOSTILE, "test_nothing_that_a_job_says_besides_is_heeded"),
    ),
    Mutant(
        "an id that is none stops the worker",
        "jobs are ours",
        "app.stack.queue.strict.StrictQueue.lpop",
        'if JOB_ID.fullmatch(popped[1].decode(errors="replace")):',
        "if True:",
        _of(HOSTILE, "test_what_waits_beside_the_jobs_is_harmless"),
    ),
    Mutant(
        "a job is for whomever it names",
        "jobs are ours",
        "workers.jobs.fan_out",
        "if not _is_ours(runtime, consumer, status, after):",
        "if False:",
        _of(HOSTILE, "test_nothing_is_run_but_our_own_functions"),
    ),
    Mutant(
        "a job is tried as often as it wants",
        "jobs are ours",
        "app.stack.queue.strict.StrictJob._restore",
        'min(int(said["retries_left"] or 0), len(self.attempt_pauses_s))',
        'int(said["retries_left"] or 0)',
        _of(HOSTILE, "test_a_job_that_fails_is_tried_as_often_as_ours"),
    ),
)
