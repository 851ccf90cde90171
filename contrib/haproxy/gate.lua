-- Asks Countersign's gate about each request, for HAProxy 2.6 or later: a file for /etc/haproxy/gate.lua. It belongs to gate.cfg.

-- The gate's address, as gate.cfg has it.
local GATE = "http://127.0.0.1:8090/auth"
-- The header that the tracker trusts.
local USER = "x-remote-user"

-- What belongs to the connection with the client, or to the body, is not the gate's.
local NOT_PASSED_ON = {
    ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["keep-alive"] = true, ["te"] = true,
    ["trailer"] = true, ["transfer-encoding"] = true,
}

-- The most header fields that a request may have. HAProxy 2.6 crashes over a question of more fields than `tune.http.maxhdr`, which
-- is 101; a few of those are this script's own.
local MOST_FIELDS = 90

core.register_action("countersign_gate", {"http-req"}, function(txn)
    local headers, fields = {}, 0
    for name, values in pairs(txn.http:req_get_headers()) do
        if not NOT_PASSED_ON[name] then
            headers[name] = {}
            -- HAProxy counts them from 0.
            for _, value in pairs(values) do
                table.insert(headers[name], value)
                fields = fields + 1
            end
        end
    end
    if fields > MOST_FIELDS then
        txn:done(txn:reply{status = 431})
        return
    end
    -- The gate trusts these two headers. A client's own headers of these names are replaced.
    headers["x-original-uri"] = {txn.sf:pathq()}
    headers["x-original-method"] = {txn.sf:method()}
    -- HAProxy asks four times before it gives up: 10 seconds.
    local answer = core.httpclient():get{url = GATE, headers = headers, timeout = 2500}
    local status = answer and answer.status or 0
    if status >= 200 and status <= 299 then
        local user = answer.headers and answer.headers[USER] and answer.headers[USER][0]
        if user and user ~= "" then
            txn.http:req_set_header(USER, user)
        end
        -- Last, so that no error of this script lets a request pass: gate.cfg refuses what has no such mark.
        txn:set_var("txn.passes", true)
        return
    end
    local reply = txn:reply{status = (status == 401 or status == 403) and status or 502}
    reply:add_header("cache-control", "no-store")
    local challenge = answer and answer.headers and answer.headers["www-authenticate"]
    if challenge then
        reply:add_header("www-authenticate", challenge[0])
    end
    txn:done(reply)
end, 0)
