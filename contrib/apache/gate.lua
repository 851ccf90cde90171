-- Asks Countersign's gate about each request, for Apache 2.4: a file for /etc/apache2/gate.lua. It belongs to gate.conf.

require "apache2"
local http = require "socket.http"

-- The gate's address, as gate.conf has it.
local GATE = "http://127.0.0.1:8090/"
-- The header that the tracker trusts.
local USER = "X-Remote-User"

http.TIMEOUT = 10

-- What belongs to the connection with the client, or to the body, is not the gate's.
local NOT_PASSED_ON = {
    ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["keep-alive"] = true, ["te"] = true,
    ["trailer"] = true, ["transfer-encoding"] = true,
}

-- Whether some server takes this name for that of the user's header: many make `_` of `-`, and PHP of a dot, too.
local function passes_for_user(name)
    return name:lower():gsub("[^%w]", "_") == USER:lower():gsub("[^%w]", "_")
end

function check(r)
    -- Decided by where Apache will send the request, not by how its path is spelt.
    if r.filename and r.filename:sub(1, #GATE + 6) == "proxy:" .. GATE then
        return apache2.DECLINED
    end
    local headers = {}
    for name, value in pairs(r:headers_in_table()) do
        if passes_for_user(name) then
            r:warn("forbade a request that carries " .. name .. " itself")
            return 403
        end
        -- Apache takes away what `Connection` names, also what is set below.
        if name:lower() == "connection" then
            for option in value:gmatch("[^,%s]+") do
                if passes_for_user(option) then
                    r:warn("forbade a request that has " .. option .. " taken away")
                    return 403
                end
            end
        end
        if not NOT_PASSED_ON[name:lower()] then
            headers[name:lower()] = value
        end
    end
    headers["x-forwarded-for"] = r.useragent_ip
    -- The gate trusts these two headers. A client's own headers of these names are replaced.
    headers["x-original-uri"] = r.unparsed_uri
    headers["x-original-method"] = r.method
    local ok, status, answered = http.request {
        url = GATE .. "auth", method = "GET", headers = headers, redirect = false,
    }
    if not ok then
        r:err("the gate does not answer: " .. tostring(status))
        return 502
    end
    if status < 200 or status > 299 then
        r.err_headers_out["WWW-Authenticate"] = answered["www-authenticate"]
        return (status == 401 or status == 403) and status or 500
    end
    -- The gate's word, or none.
    local user = answered[USER:lower()]
    r.headers_in[USER] = (user and user ~= "") and user or nil
    return apache2.OK
end
