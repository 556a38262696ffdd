-- Forwards every stable study's CR, DX and CT images to the node, each image series once per change.
--
-- Loop guards, each sufficient alone: only the SOP classes below go out, whatever the Modality says
-- (results are SR, Secondary Capture, SEG, ...), and nothing goes out that came from the node itself.
-- A transfer that fails stays in Orthanc's list of jobs and is repeated until it succeeds, also
-- after a restart; the node takes a repeated image as no news.

local NODE = 'node'               -- the entry under DicomModalities
local FORWARDED = 'ForwardedToNode' -- series metadata: the LastUpdate that the node has
local RETRY_SECONDS = tonumber(os.getenv('ORTHANC_RETRY_SECONDS') or '') or 30

local IMAGE_CLASSES = {
  ['1.2.840.10008.5.1.4.1.1.1'] = true,     -- Computed Radiography
  ['1.2.840.10008.5.1.4.1.1.1.1'] = true,   -- Digital X-Ray, for presentation
  ['1.2.840.10008.5.1.4.1.1.1.1.1'] = true, -- Digital X-Ray, for processing
  ['1.2.840.10008.5.1.4.1.1.2'] = true,     -- CT
  ['1.2.840.10008.5.1.4.1.1.2.1'] = true,   -- Enhanced CT
  ['1.2.840.10008.5.1.4.1.1.2.2'] = true,   -- Legacy Converted Enhanced CT
}

local nextRetry = 0
local carried = {}  -- job: the series that it carries, with their LastUpdate
local underWay = {} -- series: the LastUpdate that some job carries

local function get(uri)
  local body = RestApiGet(uri)
  return body and ParseJson(body) or nil
end

local function isForNode(series, modality)
  local first = series.Instances and series.Instances[1]
  local metadata = first and get('/instances/' .. first .. '/metadata?expand')
  return metadata ~= nil
    and IMAGE_CLASSES[metadata.SopClassUid] == true
    and metadata.RemoteAET ~= modality.AET
end

-- The series of a study that the node lacks: id -> LastUpdate.
local function seriesToForward(studyId)
  local modality = GetOrthancConfiguration().DicomModalities[NODE]
  local study = get('/studies/' .. studyId)
  local wanted = {}
  for _, id in ipairs(study and study.Series or {}) do
    local metadata = get('/series/' .. id .. '/metadata?expand') or {}
    local update = metadata.LastUpdate
    if update and metadata[FORWARDED] ~= update and underWay[id] ~= update then
      local series = get('/series/' .. id)
      if series and isForNode(series, modality) then
        wanted[id] = update
      end
    end
  end
  return wanted
end

-- Lua here has no timer before Orthanc 1.11.1: whatever wakes this script repeats what failed.
local function retryFailed()
  if os.time() < nextRetry then return end
  nextRetry = os.time() + RETRY_SECONDS
  for _, job in ipairs(get('/jobs?expand') or {}) do
    local content = job.Content or {}
    if job.State == 'Failure' and job.Type == 'DicomModalityStore'
       and content.RemoteAet == GetOrthancConfiguration().DicomModalities[NODE].AET then
      print('forward: repeating transfer ' .. job.ID .. ' (' .. tostring(job.ErrorDescription) .. ')')
      RestApiPost('/jobs/' .. job.ID .. '/resubmit', '')
    end
  end
end

function OnStableStudy(studyId, tags, metadata)
  local wanted = seriesToForward(studyId)
  local resources = {}
  for id, _ in pairs(wanted) do
    table.insert(resources, id)
  end
  if #resources > 0 then
    local request = {Resources = resources, Synchronous = false, Permissive = false}
    local answer = RestApiPost('/modalities/' .. NODE .. '/store', DumpJson(request, true))
    local job = answer and ParseJson(answer)
    if job and job.ID then
      carried[job.ID] = wanted
      for id, update in pairs(wanted) do
        underWay[id] = update
      end
      print('forward: ' .. #resources .. ' series of study ' .. studyId .. ' in job ' .. job.ID)
    end
  end
  retryFailed()
end

function OnJobSuccess(jobId)
  for id, update in pairs(carried[jobId] or {}) do
    RestApiPut('/series/' .. id .. '/metadata/' .. FORWARDED, update)
    if underWay[id] == update then
      underWay[id] = nil
    end
  end
  carried[jobId] = nil
end

function OnHeartBeat()
  retryFailed()
end

-- Any HTTP request serves as a clock, too: docker-compose.yml's health check sends one every 10 s.
function IncomingHttpRequestFilter(method, uri, ip, username, headers)
  retryFailed()
  return true
end
