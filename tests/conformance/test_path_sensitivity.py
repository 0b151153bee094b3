"""Replayed paths find seeded bugs: here those that the action pairs of one model are known to find."""

from __future__ import annotations

import pytest
from attrs import evolve

from tests.conformance.path_sensitivity import look_for, mutants

MUTANTS = {mutant.name: mutant for mutant in mutants()}
FOUND_BY = {
    "membership": (
        "answers_are_forgotten",
        "forgotten_requests_run_again",
        "version_never_rises",
        "any_epoch_may_write",
        "removal_ignores_incarnation",
        "incarnations_start_again",
    ),
    "membership-restore": (
        "generation_keeps_counters",
        "snapshot_loses_sessions",
    ),
    "barrier": (
        "rounds_are_restarted",
        "unlock_without_update",
        "update_before_all_have_locked",
        "acknowledgement_without_version",
        "table_of_the_version_before",
        "timeout_cuts_everyone",
        "no_timeout",
        "nobody_is_removed",
    ),
    "barrier-reconnect": (
        "push_during_a_round",
        "push_of_an_old_version",
    ),
    "barrier-leaders": ("grace_without_end",),
    "exclusive": (
        "grant_ignores_pending",
        "release_of_any_version_counts",
        "buried_without_wait",
        "answer_not_stamped",
        "round_of_an_old_epoch_counts",
        "answered_without_a_round",
        "failed_rounds_end_all_rounds",
        "nobody_is_buried",
        "lease_from_receipt",
        "gate_ignores_the_lease",
        "rights_survive_lapse",
        "grant_accepted_twice",
        "admits_to_lost_slot",
        "farewell_while_serving",
        "gone_is_not_heard",
        "draining_hosts_keep_everything",
        "since_is_not_touched",
        "everything_is_dealt_anew",
        "draining_hosts_keep_what_they_have",
        "since_is_kept",
        "the_last_owner_is_not_waited_for",
        "fences_do_not_rise",
        "the_removed_are_forgotten",
        "moves_without_a_version",
        "confirmations_of_other_versions_count",
        "members_can_be_buried",
        "fences_rise_for_whoever_asks",
    ),
    "exclusive-leaders": (
        "new_leader_does_not_wait",
        "follows_the_log_of_later_epochs",
        "grants_are_not_repeated",
    ),
    "exclusive-faults": (
        "lapse_not_made_good",
        "gate_ignores_the_fence",
        "release_while_serving",
        "restarted_hosts_go_on_with_old_rights",
        "pending_is_replaced",
    ),
}


@pytest.mark.parametrize(("model", "name"), [(model, name) for model, names in FOUND_BY.items() for name in names])
def test_action_pairs_find_a_seeded_bug(model: str, name: str) -> None:
    assert look_for(evolve(MUTANTS[name], models=(model,)), ("pairs",)) is not None
