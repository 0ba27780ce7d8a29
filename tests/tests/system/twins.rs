//! Stores that are broken on purpose: the suite must see it.

use oncue_tests::house::House;

use crate::store::suite;

/// Puts a broken copy of the function library in the place of the real one.
pub fn break_library(house: &House, line: &str, broken: &str) {
    let listed = house.redis_cli(&["FUNCTION", "LIST", "WITHCODE"]);
    let code = &listed[listed.find("#!lua").expect("the library is loaded")..];
    assert_eq!(code.matches(line).count(), 1, "{line:?} is not (or not only once) in commit.lua");
    let loaded = house.redis_cli(&["FUNCTION", "LOAD", "REPLACE", &code.replace(line, broken)]);
    assert!(loaded.starts_with("oncue_"), "{loaded}");
}

/// A suite that passes a broken store is no suite.
#[tokio::test]
async fn each_broken_twin_fails_the_suite() {
    let house = House::new("").await;
    let twins = [
        ("seen-check off", "local status = mark and not", "local status = false and not"),
        ("fence off", "local fenced = now > group.oldest + horizon or", "local fenced = false or"),
        ("version check off", "if not refused and run.row and not row_is_fresh(run) then", "if false then"),
        ("copies in one run", "if run.ids[id] then run.copies", "if false then run.copies"),
        ("payload check off", "if string.sub(mark, 2, 9) ~= string.sub(own, 2, 9)", "if false"),
        (
            "redrives unlimited",
            "if group.redrive <= (tonumber(string.sub(mark, 10)) or 0) then",
            "if group.redrive == 0 then",
        ),
        ("redrives ignored", "if group.redrive <= (tonumber(string.sub(mark, 10)) or 0) then", "if true then"),
        ("half a run", "local refused = next(run.statuses) ~= nil", "local refused = false"),
        ("outputs not stored", "redis.call('SET', KEYS[2], table.concat(outboxes))", ""),
        (
            "outputs of one run alone",
            "redis.call('SET', KEYS[2], table.concat(outboxes))",
            "redis.call('SET', KEYS[2], outboxes[1])",
        ),
        (
            "outputs of refused runs",
            "    if refused then\n",
            "    if run.outbox ~= '' then outboxes[#outboxes + 1] = run.outbox end\n    if refused then\n",
        ),
        ("operations unchecked", "why = why or check_op(run.ops[at], own)", "why = nil"),
        ("operations checked one by one", "plan.kinds[op.key] = want", ""),
        ("asking applies", "group.kind == 'q' then", "false then"),
        ("row written blindly", "redis.call('HSET', key, unpack(pairs, from, math.min(from + 1999, #pairs)))", ""),
    ];
    for (name, line, broken) in twins {
        house.redis_cli(&["FLUSHALL"]);
        house.redis_cli(&["FUNCTION", "FLUSH"]);
        let store = house.store().await;
        break_library(&house, line, broken);
        let outcome = tokio::spawn(async move { suite(&store).await }).await;
        assert!(outcome.is_err(), "the suite passes with {name}");
    }
}
