# Counts views in lines of JSON.
exec jq --unbuffered -c '
  ((.row.count // 0) + 1) as $n
  | if .data.referrer == "reject" then {reject: "told to reject"}
    elif .data.referrer == "retry" and .attempt == 1 then {retry: "not yet"}
    elif .data.referrer == "nonsense" then "nonsense"
    elif .data.referrer == "silent" then empty
    elif .data.referrer == "twice" then {row: {count: $n, last: .data.page}}, {}
    else { row: {count: $n, last: .data.page},
           emit: (if $n % 10 == 0 then [{type: "web.page.milestone", data: {page: .subject, views: $n}}] else [] end) } end'
