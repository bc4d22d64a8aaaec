-- wrk: 200 paths in turn. The last line of the output is for the bench: requests, microseconds, errors.
local requests, n = {}, 0

function init(args)
  for i = 1, 200 do
    requests[i] = wrk.format("GET", "/r/app/function-" .. i)
  end
end

function request()
  n = n % 200 + 1
  return requests[n]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
