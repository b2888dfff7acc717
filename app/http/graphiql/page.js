// The GraphiQL page of StudyBuddy: signs in, and opens with examples that work.
"use strict";

(() => {
  const url = "/graphql";
  const readConfig = (page) => JSON.parse(page.getElementById("config").textContent);
  const config = readConfig(document);
  const course = "123e4567-e89b-42d3-a456-426614174000";
  let token = config.token;

  // The page carries a token where this service issues them itself; a fresh one is a fresh page.
  async function freshToken() {
    if (token && expiresAt(token) < Date.now() + 60_000) {
      const response = await fetch(url, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await response.text(), "text/html");
      token = readConfig(page).token;
    }
    return token;
  }

  function expiresAt(jwt) {
    const claims = jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(atob(claims)).exp * 1000;
  }

  // What stands in the headers tab wins over the page's own token.
  async function authorizationOf(headers) {
    const own = Object.entries(headers ?? {}).find(([name]) => /^authorization$/i.test(name));
    if (own) return own[1];
    const fresh = await freshToken();
    return fresh ? `Bearer ${fresh}` : undefined;
  }

  let authorization;
  const socket = graphqlWs.createClient({
    url: new URL(url, location.href).href.replace(/^http/, "ws"),
    connectionParams: () => (authorization ? { Authorization: authorization } : {}),
    shouldRetry: () => true,
  });

  async function fetcher(parameters, options) {
    authorization = await authorizationOf(options?.headers);
    const headers = { ...options?.headers };
    if (authorization) headers.Authorization = authorization;
    const send = GraphiQL.createFetcher({ url, wsClient: socket });
    return send(parameters, { ...options, headers });
  }

  const request = `# Ask for a lecture's recording: the answer comes at
# once, and the work goes on behind it.
mutation RequestLecture($input: RequestLectureDownloadInput!) {
  requestLectureDownload(input: $input) {
    ... on RequestLectureDownloadPayload {
      created
      lecture { id status title panoptoUrl }
    }
    ... on Error { message }
    ... on InvalidInputError {
      fieldErrors { path message }
    }
    ... on RateLimitedError { retryAfterSeconds }
  }
}
`;

  const live = `# Every change of your lectures, until you stop it.
# Start this one, then send the request beside it from a
# second browser window: it ends when you leave its tab.
subscription MyLectures {
  myLectures {
    lectureId
    lecture {
      title status errorMessage revision
      progress { stage percent totalBytes }
    }
  }
}
`;

  const list = `# Your lectures, newest first.
query Lectures {
  lectures(first: 20) {
    totalCount
    nodes {
      id title status failure errorMessage
      durationSeconds createdAt
    }
    pageInfo { hasNextPage endCursor }
  }
}
`;

  const transcribe = `# Ask for a lecture's words: put its id, which the
# list beside this one has, in place of the zeros.
mutation Transcribe {
  requestTranscription(input: { lectureId: "00000000-0000-0000-0000-000000000000" }) {
    ... on RequestTranscriptionPayload {
      created
      transcription { id status }
    }
    ... on Error { message }
  }
}

# How far it is, then the words with their times.
subscription Words {
  myTranscriptions {
    kind
    transcription {
      status percent language errorMessage
      lecture { title }
      segments(first: 5) { nodes { startSeconds endSeconds text } }
    }
  }
}
`;

  const upload = `# An upload needs a multipart request. In a terminal:
#
# ${curl()}
#
# Then list what is there:
query Documents {
  documents(first: 20) {
    totalCount
    nodes {
      id filename sizeBytes pageCount status
      fileUrl signedFileUrl
    }
  }
}
`;

  function curl() {
    const mutation =
      "mutation($input: UploadDocumentInput!) { uploadDocument(input: $input) {" +
      " ... on UploadDocumentPayload { created document { id filename } }" +
      " ... on Error { message } } }";
    const operations = { query: mutation, variables: { input: { courseId: course, file: null } } };
    return [
      `curl ${location.origin}${url}`,
      `-H 'Authorization: Bearer ${token ?? "YOUR_TOKEN"}'`,
      `-F operations='${JSON.stringify(operations)}'`,
      `-F map='{"0": ["variables.input.file"]}'`,
      "-F '0=@slides.pdf;type=application/pdf'",
    ].join(" ");
  }

  const input = { courseId: course, panoptoUrl: config.lectureUrl };
  const variables = JSON.stringify({ input }, null, 2);
  // GraphiQL shows the first tab's variables only if its storage has them too.
  if (!localStorage.getItem("graphiql:tabState")) {
    localStorage.setItem("graphiql:variables", variables);
  }
  const page = React.createElement(GraphiQL, {
    fetcher,
    defaultTabs: [
      { query: request, variables },
      { query: live },
      { query: list },
      { query: transcribe },
      { query: upload },
    ],
    defaultEditorToolsVisibility: token ? "variables" : "headers",
    plugins: [GraphiQLPluginExplorer.explorerPlugin()],
    shouldPersistHeaders: false,
    storage: localStorage,
  });
  ReactDOM.createRoot(document.getElementById("graphiql")).render(page);
})();
